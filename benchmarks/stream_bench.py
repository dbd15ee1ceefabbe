"""The folder of the stream's benchmark, its S3 server, and how measuring processes are run."""

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapt.platforms.local_stack import S3Server

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "stream"
DEADLINE_S = 300


class Bench:
    """The folder of the benchmark, the server, and how measuring processes are run."""

    def __init__(self, given: argparse.Namespace, server: S3Server) -> None:
        self.given, self.server, self.out = given, server, given.out.resolve()
        self.environment = os.environ | server.environment() | {"OMP_NUM_THREADS": "1"}
        self.environment |= {"S3_ENDPOINT_URL": server.endpoint_url, "PYTHONPATH": str(ROOT)}

    def run(self, command: list[str], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a measuring process prints in its last line, or `{"error": why it did not}`."""
        path = self.out / "given.json"
        path.write_text(json.dumps(given))
        try:
            done = subprocess.run(
                [*command, name, str(path)],
                cwd=self.out,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"did not end within {DEADLINE_S} s"}
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        if done.returncode:
            return {"error": (lines or [f"ended with {done.returncode}"])[-1]}
        return json.loads(lines[-1]) if name != "convert" else {}

    @contextmanager
    def folder(self, name: str) -> Iterator[str]:
        """An empty folder, gone afterwards."""
        path = self.out / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield str(path)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def upload(self, folder: Path) -> str:
        """Every file of a folder into the bucket, under the folder's own name, where it is not
        there yet; the URI."""
        client, root = self.server.client(), folder.relative_to(self.out)
        listed = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{root}/")
        there = {one["Key"]: one["Size"] for page in listed for one in page.get("Contents", ())}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            key = f"{root}/{path.relative_to(folder)}"
            if there.get(key) != path.stat().st_size:
                client.upload_file(str(path), BUCKET, key)
        return f"s3://{BUCKET}/{root}"

    def named(self, kind: str) -> str:
        """The name of a folder of data, which says what decides them."""
        return f"{kind}_images" if self.given.images else f"{kind}_scenes"
