"""Put the weights of a finished autoencoder run into the package.

    python scripts/ship_autoencoder.py results/runs/autoencoder/autoencoder-<digest>

Copies the run's weights to where ``load_codec("autoencoder")`` finds them, and writes their digest
into ``conf/codec/autoencoder.yaml``, so that stored results belong to the weights they used.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys

from convexinit.molecules import WeightsError, load_codec
from convexinit.molecules.autoencoder import WEIGHTS
from convexinit_paper.request.config import CONF
from convexinit_paper.request.paths import path_argument
from convexinit_paper.request.process import begin_command

LARGEST = 12_000_000  # bytes that the package may carry


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=path_argument, metavar="RUN", help="folder of the run")
    source = parser.parse_args().run / "arrays.npz"
    try:
        codec = load_codec("autoencoder", weights=source)
        size = source.stat().st_size
        if size > LARGEST:
            sys.exit(f"error: {source} has {size:,} bytes, more than the {LARGEST:,} allowed")
        shutil.copyfile(source, WEIGHTS)
    except (WeightsError, OSError) as error:
        sys.exit(f"error: {error}")
    options = CONF / "codec" / "autoencoder.yaml"
    text = re.sub(
        r"(?m)^digest: .*$", f"digest: {codec.digest}", options.read_text(encoding="utf-8")
    )
    options.write_text(text, encoding="utf-8")
    print(f"{WEIGHTS}: {size:,} bytes, digest {codec.digest} (also in {options})")


if __name__ == "__main__":
    begin_command()
    main()
