"""When somebody speaks: python detect.py ADDRESS SPEECH.wav"""

import sys
import wave
from collections.abc import Iterator

import numpy as np

from lockstep_client import Client

RATE, PIECE_S, WINDOW_S = 16000, 0.02, 512 / 16000
BEGIN, END = 0.5, 0.35  # probabilities of speech at which it begins and ends


def pieces(path: str) -> Iterator[np.ndarray]:
    """Pieces of 20 ms, as float32 from -1 to 1."""
    with wave.open(path) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, RATE):
            sys.exit(f"{path}: convert it to one channel of 16-bit samples at {RATE} Hz")
        while data := file.readframes(int(RATE * PIECE_S)):
            yield np.frombuffer(data, "<i2").astype(np.float32) / 32768


def main(address: str, path: str) -> None:
    began_s = None
    with Client(address) as client, client.follow_frames("silero-vad", pieces(path)) as stream:
        for prediction in stream:
            end_s = prediction.position / RATE
            speech = float(prediction.outputs["output"][0])
            if began_s is None and speech >= BEGIN:
                began_s = end_s - WINDOW_S
            elif began_s is not None and speech < END:
                print(f"speech from {began_s:.2f} s to {end_s:.2f} s")
                began_s = None
        windows = len(stream.result())
    if began_s is not None:
        print(f"speech from {began_s:.2f} s to the end")
    print(f"{windows} windows")


if __name__ == "__main__":
    main(*sys.argv[1:3])
