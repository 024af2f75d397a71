"""A prediction after each word, while words still arrive: python examples/follow_live.py [HOST:PORT]

Here a thread sends a word every 0.1 s; a real source could be a microphone or a keyboard.
"""

import queue
import sys
import threading
import time

from lockstep_client import Client

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"
SENTENCE = "a dull start , but then a wonderful and moving film"

words: queue.SimpleQueue[str | None] = queue.SimpleQueue()


def send_words() -> None:
    for word in SENTENCE.split():
        words.put(f"{word} ")  # white space completes a word
        time.sleep(0.1)
    words.put(None)


threading.Thread(target=send_words).start()
with Client(ADDRESS) as client:
    for prediction in client.follow("sentiment-lstm", iter(words.get, None)):
        bar = "#" * round(20 * prediction.best.probability)
        print(f"{prediction.element:<10} {prediction.best.name:<9} {bar}", flush=True)
