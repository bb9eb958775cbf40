"""`jepa-edge run` whose engine hangs for two seconds on SIGALRM, and notes when it began."""

import signal
import sys
import time
from pathlib import Path


def hanging_run(note):
    from jepa_edge.runtimes import stream
    from jepa_edge.runtimes.__main__ import main

    hangs = set()
    signal.signal(signal.SIGALRM, lambda number, _: hangs.add(number))
    encode = stream.Stream.encode

    def hanging_encode(self, step):
        if hangs:
            hangs.clear()
            part = note.with_suffix(".part")
            part.write_text(str(time.monotonic_ns()))
            part.rename(note)
            time.sleep(2.0)
        return encode(self, step)

    stream.Stream.encode = hanging_encode
    main()


if __name__ == "__main__":
    hanging_run(Path(sys.argv.pop(1)))
