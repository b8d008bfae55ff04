"""``collegium reproduce majority``: do majority kernels pay? Methods on Fashion-MNIST, tuned alike, compared in pairs.

Each training is kept as it ends, in a file of the folder --records: what is stopped, or killed, goes on when it is
started again. --shard 2/4 does the second of four parts, for as many machines, whose files belong into one folder.
The images are Debian's package dataset-fashion-mnist, or the four published files in a folder fashion-mnist.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collegium.arguments import amount, count
from collegium.streams import reason, writable
from collegium.train.data.catalog import DEBIAN, missing_files, usual_folders
from collegium.train.reproduce.majority.cells import DATA
from collegium.train.reproduce.majority.outlook import outlook
from collegium.train.reproduce.majority.plan import TUNING_SEED, Unit, units
from collegium.train.reproduce.majority.records import InUse, Records
from collegium.train.reproduce.majority.report import write_report
from collegium.train.reproduce.majority.running import run_all
from collegium.train.reproduce.majority.training import Training

OUTLOOK_EVERY = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, resume or report the study; the exit status: 0, 2 for wrong arguments, 130 where it was interrupted."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        writable(given.output)
    except OSError as error:
        parser.error(f"argument --output: {reason(error)}")
    try:
        planned = units(given.only, shard=given.shard, seeds=given.seeds, tuning_seeds=given.tuning_seeds)
    except ValueError as error:
        parser.error(f"argument --only: {error}")
    if given.seeds > TUNING_SEED:
        parser.error(f"argument --seeds: at most {TUNING_SEED}; rates and epochs are chosen by the seeds after these")
    if not planned:
        parser.error("argument --shard: there are fewer settings than parts, and this part has none")
    try:
        if given.report:
            if not any(given.records.glob("*.jsonl")):
                parser.error(f"argument --records: {given.records} has no file of records: name the folder that has")
            print(write_report(planned, Records(given.records), given.output))
            return 0
        data_dir = _data_dir(parser, given.data_dir)
        records = Records(given.records, "shard-{}-of-{}.jsonl".format(*given.shard))
    except (InUse, ValueError) as error:
        parser.error(f"argument --records: {error}")
    except OSError as error:
        parser.error(f"argument --records: {reason(error)}")
    print(outlook(planned, records, processes=given.processes), file=sys.stderr, flush=True)
    told = _Told(planned, records, given.processes)
    try:
        run_all(planned, records, data_dir, processes=given.processes, seconds=60 * given.minutes, told=told)
    except KeyboardInterrupt:
        print(f"stopped; what has ended is in {given.records}, and the same command goes on", file=sys.stderr)
        return 130
    finally:
        records.close()
    print(write_report(planned, Records(given.records), given.output))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="collegium reproduce majority", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, default=Path("reproduced/majority"), help="folder of all trainings")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD",
        help="settings and methods to run, such as: A1 Adam 1000 20%% 'majority, independent'; "
        "any of one kind, all kinds together",
    )  # fmt: skip
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="K/N", help="the K-th of N parts")
    parser.add_argument("--processes", type=count, default=1, help="trainings at a time, each on one thread")
    parser.add_argument("--seeds", type=count, default=10, help="trainings that are compared, of each method")
    parser.add_argument("--tuning-seeds", type=count, default=2, help="trainings of each point of a search")
    parser.add_argument("--minutes", type=amount, default=math.inf, help="begin no training after so many")
    parser.add_argument("--report", action="store_true", help="train nothing: tables and figures of what there is")
    parser.add_argument("--output", type=Path, default=Path("reproduced"), help="folder for tables and figures")
    parser.add_argument(
        "--data-dir", type=Path, help=f"folder that holds {DATA}; else that of COLLEGIUM_DATA_DIR, else {DEBIAN}"
    )
    return parser


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N, such as 2/4")
    return int(part), int(parts)


def _data_dir(parser: argparse.ArgumentParser, named: Path | None) -> Path:
    """The folder with the images: that of --data-dir alone where it is given, else the usual ones."""
    folders = usual_folders(named)
    for folder in folders:
        if not missing_files(DATA, folder):
            return folder
    parser.error(
        f"argument --data-dir: the images are not in {' or '.join(str(folder / DATA) for folder in folders)}: "
        "install Debian's package dataset-fashion-mnist, or put the four published IDX files into such a folder"
    )


class _Told:
    """Prints each training as it ends, and every few of them how far the study is."""

    def __init__(self, planned: Sequence[Unit], records: Records, processes: int) -> None:
        self._planned, self._records, self._processes, self._count = planned, records, processes, 0

    def __call__(self, training: Training, row: dict[str, Any]) -> None:
        role = "validation" if training.tuning else "test"
        if "failure" in row:
            found = "diverged"
        elif training.tuning:
            found = f"{100 * max(score for score, _ in row['validation'].values()):.2f} %"
        else:
            found = f"{100 * row['accuracy'][2]:.2f} %"
        print(f"{training.key}: {role} {found}", file=sys.stderr, flush=True)
        self._count += 1
        if self._count % OUTLOOK_EVERY == 0:
            print(outlook(self._planned, self._records, processes=self._processes), file=sys.stderr, flush=True)
