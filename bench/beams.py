"""What beams cost and gain: BLEU, latency and streams per second of a translator, by number of beams.

test part of Multi30k → a server of its own → each caption translated: one call at a time, then `AT_ONCE`

    python -m bench.beams MODELS DATA     # DATA has multi30k/test_2016_flickr.en and .fr

It prints the table of bench/README.md.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sacrebleu

from lockstep_client import Client, Translation
from lockstep_client.server_process import ServerProcess

MODEL, BEAMS, AT_ONCE, ALONE = "translate-en-fr", (1, 2, 4, 8), 16, 100


def main(models: Path, data: Path) -> None:
    sources, references = (
        (data / "multi30k" / f"test_2016_flickr.{language}").read_text(encoding="utf-8").splitlines()
        for language in ("en", "fr")
    )
    print("| beams | BLEU | latency alone, ms | captions/s, 16 at once |\n|---:|---:|---:|---:|")
    with ServerProcess("--models", str(models)) as server:
        server.wait_ready()
        with Client(server.address, timeout_s=600) as client:
            for beams in BEAMS:
                alone = statistics.median(_translate(client, one, beams)[1] for one in sources[:ALONE])
                begun = time.perf_counter()
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    found = list(pool.map(lambda one, beams=beams: _translate(client, one, beams), sources))
                rate = len(sources) / (time.perf_counter() - begun)
                bleu = sacrebleu.BLEU().corpus_score([whole.text for whole, _ in found], [references]).score
                print(f"| {beams} | {bleu:.1f} | {alone * 1e3:.1f} | {rate:.0f} |", flush=True)


def _translate(client: Client, source: str, beams: int) -> tuple[Translation, float]:
    begun = time.perf_counter()
    whole = client.translate(MODEL, source, beams=beams).result()
    return whole, time.perf_counter() - begun


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
