"""From two folders to a job: what they hold, the classes, network and commands proposed for them.

`adapt/cli/init.py` asks and writes; nothing here reads a terminal.
"""
