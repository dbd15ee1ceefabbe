"""The check that a video file is whole: how far its packets reach, of what its container states.

A container states the number of its frames (MP4, MOV), the end of a track or of all (AVI, Matroska,
WebM, FLV, WMV), or nothing (transport streams, Ogg). Times count beside numbers, since frames that
an edit list cuts off are no damage, and rates vary. FFmpeg goes on behind a hole as if nothing had
been there, so bytes that belong to no packet count too.
"""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from adapt.use.container_ends import ends_within_a_unit
from adapt.use.container_units import has_broken_units

_NUMBERED, _TICKED = "mov", "avi"
"""Containers that state the number of frames, and one that states that of its ticks, by FFmpeg's
name."""
_SLACK_S = {_TICKED: 0.0, "matroska": 0.0, "flv": 1.0, "asf": 1.0}
"""Containers that state their end, and how far their writers round it."""
_SLACK_FRAMES = 2
_MICROSECONDS = 1_000_000
_DENSE, _HOLE_BYTES = ("matroska", "flv", "asf"), 1 << 16
"""Containers between whose packets less lies than this: headers, padding."""
_TAIL_SHARE = 0.02
"""Of a file of fragments: what its index takes behind the last one, at most."""


class Reach:
    """How far the packets of a file reach. `stated`: the number of frames as text, by its
    container's account; "" where it has none."""

    def __init__(self, container: Any, stream: Any, rate: Fraction) -> None:
        self._stream, self._rate = stream, rate
        self._own_s = self._any_s = self._gap_s = 0.0
        self._time_s: float | None = None
        self._is_cut = False
        self._form = form = container.format.name.split(",")[0]
        self._path, self._size = container.name, max(0, container.size or 0)
        self._read_to: int | None = None
        self._num_packets, self._num_indexed = 0, _num_indexed(stream) if form == _TICKED else 0
        self.has_hole = False
        self._num_frames = int(stream.frames) if form == _NUMBERED else 0
        self._slack_s = _SLACK_S.get(form, 0.0)
        self._own_end_s = _own_end_s(stream) if form in _SLACK_S else 0.0
        all_s = max(0, container.duration or 0) / _MICROSECONDS
        self._all_end_s = 0.0 if self._own_end_s or form not in _SLACK_S else all_s
        about = round((self._own_end_s or self._all_end_s) * rate)
        self.stated = str(self._num_frames or "") or (f"about {about}" if about else "")

    def take(self, packet: Any) -> None:
        """Count a packet of any track. `has_hole`: bytes before it belong to none."""
        self._cover(packet)
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None or packet.time_base is None:
            return
        own = packet.stream is self._stream
        self._is_cut = self._is_cut or (own and packet.is_discard)
        frame_s = float(1 / self._rate) if own else 0.0
        end_s = float(ticks * packet.time_base)
        end_s += float(packet.duration * packet.time_base) if packet.duration else frame_s
        self._any_s = max(self._any_s, end_s)
        self._own_s = max(self._own_s, end_s) if own else self._own_s

    def _cover(self, packet: Any) -> None:
        if not packet.size or packet.pos is None or packet.pos < 0:
            return
        self._num_packets += packet.stream is self._stream
        if self._read_to is not None and self._form in _DENSE:
            self.has_hole = packet.pos - self._read_to > _HOLE_BYTES
        self._read_to = max(self._read_to or 0, packet.pos + packet.size)

    def show(self, time_s: float | None) -> None:
        """Count a frame by its time."""
        if time_s is not None and self._time_s is not None:
            self._gap_s = max(self._gap_s, time_s - self._time_s)
        self._time_s = time_s

    def ends_early(self, num_frames: int) -> bool:
        """Return whether a file of which this many frames were read has lost its end, or packets
        that its index lists.

        How long its last frame was to be shown is not stated: at most as long as another one.
        """
        unread = self._num_packets < self._num_indexed or self._leaves_fragments(num_frames)
        if unread or ends_within_a_unit(self._form, Path(self._path)):
            return True
        if self._num_frames:
            return num_frames < self._num_frames and self._is_short()
        slack_s = max(self._slack_s, _SLACK_FRAMES / float(self._rate), self._gap_s)
        short = self._own_s + slack_s < self._own_end_s
        return short or self._any_s + slack_s < self._all_end_s

    def has_broken_units(self) -> bool:
        """Return whether the file has a hole, or damage by its own checksums, however small."""
        return has_broken_units(self._form, Path(self._path))

    def _leaves_fragments(self, num_frames: int) -> bool:
        """Return whether an MP4 of fragments, of which only the first are stated, continues behind
        what was read."""
        if self._form != _NUMBERED or num_frames <= self._num_frames:
            return False
        return self._size - (self._read_to or 0) > max(_HOLE_BYTES, _TAIL_SHARE * self._size)

    def _is_short(self) -> bool:
        """By more than half a frame, and a whole one where an edit list cuts within frames."""
        stream, slack_s = self._stream, (1.5 if self._is_cut else 0.5) / float(self._rate)
        end = (stream.start_time or 0) + (stream.duration or 0)
        return not stream.duration or self._own_s + slack_s < float(end * stream.time_base)


def _num_indexed(stream: Any) -> int:
    """The packets with content that the index of an AVI lists; 0 without one."""
    return sum(1 for entry in stream.index_entries if entry.size)


def _own_end_s(stream: Any) -> float:
    """The end of a track in seconds by its container's account; 0 where it has none."""
    if stream.frames and stream.time_base:  # of an AVI: its ticks
        return float(stream.frames * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return 0.0 if tag is None else 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
