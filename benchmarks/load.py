"""Load the app with simulated people, as browsers do: over its WebSocket.

    python benchmarks/load.py [--demo FOLDER] [--sessions 10 25 50] [--seconds 30]

Each visitor opens the ECG page, then again and again chooses a demo ECG, waits for all of
the page, and thinks for 2 s. A fresh server for every number of visitors; beside it a
server whose page says one word, loaded in the same way just before: what is then waited
for is Streamlit and this machine, not PhenoKit. Every second a visitor asks for the
server's health.

At last a server that lets 10 in meets four times as many. Those who are in go on, the
others get the page of the line; then they leave, and it is measured how long those who
are in need until they are as fast as before.

One JSON object a line, and the load of the machine with each. Goals: no error; with 10
visitors a p95 below 3 s on two idle cores; health below 1 s at any load; as before within
60 s.
"""

import argparse
import asyncio
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

ROOT = Path(__file__).parents[1]
THINK = 2.0
"""Seconds, on average, between an answer and the next choice."""
RECORD = "record-Demo"
"""Key of the box of recordings on the ECG page."""
PATIENCE = 60.0
"""Seconds after which a visitor counts a missing answer as an error."""
FAULTS = ("Something went wrong", "The model is busy")


# A visitor


@dataclass
class Answer:
    """What a run of the page sent.

    Attributes
    ----------
    seconds
        From the request to the end of the run.
    boxes
        Options of the boxes on the page, by the end of their ids.
    """

    seconds: float = 0.0
    texts: list[str] = field(default_factory=list)
    components: list[str] = field(default_factory=list)
    boxes: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    fragments: list[tuple[str, float]] = field(default_factory=list)
    n_bytes: int = 0

    @property
    def is_line(self) -> bool:
        """Whether it is the page of those who wait to be let in, or its news."""
        return any(text.startswith(("PhenoKit is full", "You are ")) for text in self.texts)

    def fault(self) -> str:
        """What is wrong with it; empty if nothing is."""
        said = [text for text in self.texts if text.startswith(FAULTS)]
        return said[0] if said else ""


class Visitor:
    """A tab: one connection, and the widgets that it has set."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._page = ""
        self._widgets: dict[str, str] = {}

    async def run(self, *, fragment: str = "") -> Answer:
        """Run the page, or a fragment of it as its clock would; wait for all of it."""
        began = time.monotonic()
        await self._ask(fragment)
        answer = await asyncio.wait_for(self._answer(), PATIENCE)
        answer.seconds = time.monotonic() - began
        return answer

    async def choose(self, box: tuple[str, list[str]], option: str) -> Answer:
        """Choose in a box, and run the page."""
        self._widgets[box[0]] = option
        return await self.run()

    async def interrupt(self, box: tuple[str, list[str]], options: list[str]) -> Answer:
        """Choose one after the other without waiting; the answer to the last."""
        for option in options[:-1]:
            self._widgets[box[0]] = option
            await self._ask()
            await asyncio.sleep(0.05)
        return await self.choose(box, options[-1])

    async def _ask(self, fragment: str = "") -> None:
        request = BackMsg()
        state = request.rerun_script
        state.page_script_hash = self._page
        for name, value in self._widgets.items():
            widget = state.widget_states.widgets.add()
            widget.id, widget.string_value = name, value
        if fragment:
            state.fragment_id, state.is_auto_rerun = fragment, True
        await self._socket.send(request.SerializeToString())

    async def _answer(self) -> Answer:
        answer = Answer()
        while True:
            data = await self._socket.recv()
            if isinstance(data, str):
                continue
            message = ForwardMsg.FromString(data)
            answer.n_bytes += len(data)
            kind = message.WhichOneof("type")
            if kind == "new_session":
                answer = Answer(n_bytes=answer.n_bytes)
                self._page = message.new_session.page_script_hash
            elif kind == "auto_rerun":
                one = message.auto_rerun
                answer.fragments.append((one.fragment_id, one.interval))
            elif kind == "delta":
                _take(answer, message)
            elif kind == "script_finished":
                status = ForwardMsg.ScriptFinishedStatus.Name(message.script_finished)
                if status != "FINISHED_EARLY_FOR_RERUN":
                    return answer


def _take(answer: Answer, message: ForwardMsg) -> None:
    element = message.delta.new_element
    kind = element.WhichOneof("type")
    if kind in {"alert", "text", "heading", "exception"}:
        one = getattr(element, kind)
        answer.texts.append(one.message if kind == "exception" else one.body)
    elif kind == "selectbox":
        key = element.selectbox.id.rpartition("-")[2]
        box = (element.selectbox.id, list(element.selectbox.options))
        answer.boxes[RECORD if element.selectbox.id.endswith(RECORD) else key] = box
    elif kind == "bidi_component":
        answer.components.append(element.bidi_component.id.rpartition("-")[2])


async def open_tab(port: int) -> Visitor:
    """A new visitor, whose page has not run yet."""
    stream = await connect(
        f"ws://127.0.0.1:{port}/_stcore/stream",
        origin=f"http://127.0.0.1:{port}",  # pyright: ignore[reportArgumentType]
        subprotocols=["streamlit"],  # pyright: ignore[reportArgumentType]
        max_size=None,
        ping_interval=None,
        open_timeout=PATIENCE,
    )
    return Visitor(stream)


async def close_tab(visitor: Visitor) -> None:
    """As a browser does when its tab is closed."""
    await visitor._socket.close()


# The server


@dataclass
class Server:
    """An app in a process of its own."""

    port: int
    process: subprocess.Popen

    def memory(self) -> float:
        """Resident memory, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def processor_seconds(self) -> float:
        """Processor time since it was started."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2]
        ticks = sum(map(int, fields.split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def health(self) -> float:
        """Seconds until the server says that it runs."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/_stcore/health")
        connection.getresponse().read()
        connection.close()
        return time.monotonic() - began


@contextmanager
def server(script: Path, folder: Path, **variables: str) -> Iterator[Server]:
    """A server that lives as long as the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--server.port", str(port)],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
        )
    one = Server(port, process)
    try:
        for _ in range(300):
            with suppress(OSError):
                one.health()
                break
            time.sleep(0.2)
        yield one
    finally:
        process.terminate()
        process.wait(20)


# Load


@dataclass
class Seen:
    """What visitors met with.

    Attributes
    ----------
    answers
        When each began, and how long it took; seconds.
    spent
        Every second: answers so far, and processor time of the server so far.
    """

    answers: list[tuple[float, float]] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lines: int = 0
    health: list[float] = field(default_factory=list)
    spent: list[tuple[int, float]] = field(default_factory=list)

    def processor_ms(self, warm: int) -> float | None:
        """Processor time of the server an answer, once there were `warm` answers."""
        since = [one for one in self.spent if one[0] >= warm]
        if not since or since[-1][0] == since[0][0]:
            return None
        (n_before, before), (n, after) = since[0], since[-1]
        return round(1000 * (after - before) / (n - n_before), 1)

    def summary(self, seconds: float) -> dict[str, object]:
        """In figures."""
        took = [one for _, one in self.answers]
        return {
            "runs": len(took),
            "runs_a_second": round(len(took) / seconds, 2),
            "p50": quantile(took, 0.5),
            "p95": quantile(took, 0.95),
            "first_p95": quantile(self.first, 0.95),
            "line_pages": self.lines,
            "errors": len(self.errors),
            "error": self.errors[0] if self.errors else "",
            "health_max": quantile(self.health, 1.0),
        }


def quantile(values: list[float], share: float) -> float | None:
    """Of what was measured; None of nothing."""
    if not values:
        return None
    return round(sorted(values)[min(int(share * len(values)), len(values) - 1)], 3)


async def visit(port: int, until: float, seen: Seen, seed: int) -> None:
    """One visitor: comes within a few seconds, opens ECGs, thinks, until it is time."""
    chance = random.Random(seed)
    await asyncio.sleep(chance.uniform(0, 4))
    try:
        visitor = await open_tab(port)
    except (OSError, TimeoutError) as error:
        seen.errors.append(type(error).__name__)
        return
    try:
        answer = await visitor.run()
        clocks = answer.fragments
        while answer.is_line:
            seen.lines += 1
            fragment, interval = clocks[0]
            await asyncio.sleep(interval)
            if time.monotonic() > until:
                return
            answer = await visitor.run(fragment=fragment)
        seen.first.append(answer.seconds)
        box = answer.boxes.get(RECORD)
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(0.5 * THINK, 1.5 * THINK))
            began = time.monotonic()
            if box is None:  # the page of one word
                answer = await visitor.run()
            else:
                answer = await visitor.choose(box, chance.choice(box[1]))
            seen.answers.append((began, answer.seconds))
            fault = answer.fault()
            if not fault and box is not None and "verdict" not in answer.components:
                fault = "no verdict on the page"
            if fault:
                seen.errors.append(fault)
    except Exception as error:
        seen.errors.append(type(error).__name__)
    finally:
        with suppress(Exception):
            await close_tab(visitor)


async def watch_health(one: Server, until: float, seen: Seen) -> None:
    """Every second until it is time."""
    while time.monotonic() < until:
        seen.health.append(await asyncio.to_thread(one.health))
        seen.spent.append((len(seen.answers), one.processor_seconds()))
        await asyncio.sleep(1)


async def load(one: Server, n: int, seconds: float, seen: Seen) -> None:
    """As many visitors for so long."""
    until = time.monotonic() + seconds
    visits = [visit(one.port, until, seen, seed) for seed in range(n)]
    await asyncio.gather(watch_health(one, until, seen), *visits)


def report(name: str, one: Server, seen: Seen, seconds: float, **more: object) -> None:
    """One line."""
    figures = {
        "what": name,
        **more,
        **seen.summary(seconds),
        "server_mb": round(one.memory()),
        "machine_load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(figures), flush=True)


def load_pages(app: Path, empty: Path, folder: Path, n: int, seconds: float) -> None:
    """The page of one word, then the ECG page, with as many visitors."""
    for name, script, lasts in (
        ("one word", empty, seconds / 3),
        ("ECG page", app, seconds),
    ):
        seen = Seen()
        with server(script, folder, PHENOKIT_SESSIONS=str(2 * n)) as one:
            asyncio.run(load(one, n, lasts, seen))
            spent = seen.processor_ms(warm=n)
            report(name, one, seen, lasts, sessions=n, processor_ms_an_answer=spent)


def overload(app: Path, folder: Path, n: int, seconds: float) -> None:
    """`n` visitors are in; three times as many come, and go again."""

    async def phases(one: Server, during: Seen, calm: Seen, back: Seen) -> float:
        start = time.monotonic()
        end = start + 4 * seconds
        inside = Seen()
        inside_visits = [
            asyncio.create_task(visit(one.port, end, inside, seed)) for seed in range(n)
        ]
        watched = asyncio.create_task(watch_health(one, end, inside))
        await asyncio.sleep(2 * seconds)
        crowd_came = time.monotonic()
        crowd = [
            visit(one.port, crowd_came + seconds, during, 1000 + k) for k in range(3 * n)
        ]
        await asyncio.gather(*crowd)
        left = time.monotonic()
        await asyncio.gather(watched, *inside_visits)
        for began, took in inside.answers:
            phase = calm if began < crowd_came else during if began < left else back
            phase.answers.append((began, took))
        during.health += inside.health
        during.errors += inside.errors
        return left

    calm, during, back = Seen(), Seen(), Seen()
    with server(app, folder, PHENOKIT_SESSIONS=str(n)) as one:
        left = asyncio.run(phases(one, during, calm, back))
        # The first answers after a start load the model.
        calm.answers = calm.answers[n:]
        report("calm", one, calm, 2 * seconds, sessions=n)
        report("four times as many", one, during, seconds, sessions=4 * n)
        report("after they left", one, back, seconds, sessions=n)
    usual = quantile([took for _, took in calm.answers], 0.95)
    slow = [began - left for began, took in back.answers if usual and took > usual]
    median = statistics.median(took for _, took in back.answers)
    print(json.dumps({
        "what": "seconds after which answers are as fast as before",
        "usual_p95": usual,
        "median_after": round(median, 3),
        "last_slower_at": round(max(slow), 1) if slow else 0.0,
        "slower_after": len(slow),
    }), flush=True)  # fmt: skip


def main() -> None:
    """Load the app and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--sessions", type=int, nargs="*", default=[10, 25, 50])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--inside", type=int, default=10, help="of the overload; 0: none")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phenokit-") as folder:
        scratch = Path(folder)
        empty = scratch / "empty.py"
        empty.write_text('import streamlit as st\n\nst.text("Hello")\n')
        demo = asked.demo
        if demo is None:
            from phenokit.simulation.demo import write_demo_recordings

            demo = scratch / "demo"
            demo.mkdir()
            write_demo_recordings(demo, seed=7)
        os.environ.update(
            PHENOKIT_DEMO=str(demo),
            PHENOKIT_AUDIT=str(scratch / "audit"),
            PHENOKIT_JOBS=str(scratch / "jobs"),
            PHENOKIT_REVIEWS=str(scratch / "reviews.sqlite"),
        )
        for n in asked.sessions:
            load_pages(ROOT / "app.py", empty, scratch, n, asked.seconds)
        if asked.inside:
            overload(ROOT / "app.py", scratch, asked.inside, asked.seconds)


if __name__ == "__main__":
    main()
