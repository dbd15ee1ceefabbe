"""Where jobs run: submission to each platform, and the local stack of real servers."""
