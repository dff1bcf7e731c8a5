"""`mesh chat` in a terminal, as a person uses it: with the demonstration models in its own process, and through a
gateway with a scripted one that writes Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.demo import model_path
from tests.e2e.screen import Screen
from tests.harness import Mesh, wait_until

LOAD_LIMIT = 45.0  # torch, on a busy machine
DEMO, WRITER = "mesh-demo-mini", "writer"
WRITTEN = """<think>First the list.</think>## Steps

1. **Wash** it.
2. Call `dry(it)`.

```python
def dry(it):
    return it - WATER
```
""" + "\n".join(f"- Item {number} of a list that is taller than the screen" for number in range(1, 41))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("chat")
    script = folder / "script.txt"
    script.write_text(WRITTEN)
    args = ("--engine", "scripted", "--model-name", WRITER, "--script-text", str(script), "--reasoning-parser", "think")
    # Slow enough to be stopped before its end.
    with Mesh(folder, worker_args=(*args, "--script-step-ms", "4"), model=WRITER) as mesh:
        yield mesh


def chat(mesh: Mesh, folder: Path, *argv: str) -> Screen:
    return Screen(folder, "chat", "--url", mesh.gateway.url, *argv)


def test_a_conversation_in_one_process_with_its_commands(mesh: Mesh, tmp_path: Path) -> None:
    model = f"--model-path={model_path(DEMO)}"
    with Screen(tmp_path, "chat", model, "--threads=1", "--style=simple", "--set=seed=1") as screen:
        screen.wait_for(f"{DEMO} at this process", "/help lists commands", "\n>", within=LOAD_LIMIT)
        screen.type("Hello!")
        screen.press("M-Enter")
        screen.enter("What can\\")
        screen.enter("you do?")
        screen.wait_for("> Hello!\n… What can\n… you do?\n", "seed 1 · ", " tokens")
        screen.enter("/set temperature 0")
        screen.enter("/show")
        screen.wait_for("seed         1", "temperature  0", "1  user: Hello! What can you do?", "assistant: ")
        screen.enter("/stats")
        screen.wait_for("1 answer     prompt ")
        screen.enter(f"/save {tmp_path}/talk.json")
        screen.wait_for("Saved to")
        screen.enter("/undo")
        screen.wait_for("Removed: Hello! What can you do?")
        screen.enter("/regenerate")
        screen.wait_for("there is no answer to regenerate yet")
        screen.enter(f"/load {tmp_path}/talk.json")
        screen.wait_for("Loaded 1 exchanges")
        screen.enter("/regenrate")
        screen.wait_for("did you mean /regenerate?")
        screen.enter("/model nobody")
        screen.wait_for("unknown model 'nobody'")
        screen.type("/mod")
        screen.wait_for("talk with another model")  # the menu
        screen.press("Tab")
        screen.wait_for("> /model\n")
        screen.press("Space")
        screen.type("mesh-demo-")
        screen.wait_for("> /model mesh-demo-\n")
        screen.wait_for(" mesh-demo-mini ")  # the menu
        screen.press("Tab")
        screen.wait_for("> /model mesh-demo-mini")
        screen.press("Enter")
        screen.wait_for(f"{DEMO} answers from now on.")
        screen.enter("/set ignore_eos true")
        screen.enter("Tell me a story about a fox.")
        wait_until(lambda: " a " in screen.seen().partition("fox.\n")[2])  # of the answer
        screen.press("C-c")
        screen.wait_for("[stopped]")
        screen.press("C-d")
        assert screen.wait_exit() == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert (saved["model"], saved["seed"], saved["temperature"]) == (DEMO, 1, 0)
    assert saved["messages"][0] == {"role": "user", "content": "Hello!\nWhat can\nyou do?"}
    with mesh.openai() as client:  # the file is a request as it stands
        answered = client.post("/chat/completions", body={**saved, "model": WRITER}, cast_to=dict[str, object])
        assert answered["object"] == "chat.completion"


def test_ctrl_c_ends_the_answer_and_not_the_program(mesh: Mesh, tmp_path: Path) -> None:
    before = mesh.workers[0].stats().streams_cancelled
    with chat(mesh, tmp_path) as screen:
        screen.wait_for("/help lists commands", "\n>")
        screen.enter("Tell me a story about a fox.")
        screen.wait_for("Steps")
        screen.press("C-c", "C-c")  # as of somebody in a hurry
        screen.wait_for("[stopped]", "\n>")
        assert screen.has_cursor
        # The hang-up has reached the engine.
        wait_until(lambda: mesh.workers[0].stats().streams_cancelled == before + 1)
        screen.enter("/show")
        screen.wait_for("1  user: Tell me a story about a fox.", "assistant: ")
        screen.press("C-c")
        screen.enter("/exit")
        assert screen.wait_exit() == 0
        assert "Traceback" not in screen.seen()


def test_markdown_is_drawn_and_scrolls(mesh: Mesh, tmp_path: Path) -> None:
    with chat(mesh, tmp_path, "--model", WRITER) as screen:
        screen.wait_for("/help lists commands", "\n>")
        screen.enter("How?")
        seen = screen.wait_for("Item 40 of a list", "tokens")
        coloured = screen.seen(colours=True)
        screen.press("C-d")
        assert screen.wait_exit() == 0
    for number in range(1, 41):
        assert seen.count(f"• Item {number} of a list") == 1, seen
    assert seen.index("First the list.") < seen.index("Steps") < seen.index("1 Wash it.") < seen.index("def dry(it):")
    assert all(mark not in seen for mark in ("**", "`", "##", "<think>"))
    assert "\x1b[2m\x1b[3mFirst the list." in coloured or "\x1b[2;3mFirst the list." in coloured, "it is dimmed"
    assert "\x1b[94mdef" in coloured, "code has colours"


def test_what_was_typed_is_there_the_next_time(mesh: Mesh, tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
    with Screen(folders[0], "chat", "--url", mesh.gateway.url, env=state) as screen:
        screen.wait_for("/help lists commands", "\n>")
        screen.enter("/set top_p 0.5")
        screen.wait_for("top_p = 0.5")
    with Screen(folders[1], "chat", "--url", mesh.gateway.url, env=state) as screen:
        screen.wait_for("/help lists commands", "\n>")
        screen.press("Up")
        screen.wait_for("> /set top_p 0.5")
