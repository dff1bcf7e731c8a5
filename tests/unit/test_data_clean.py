"""HTML as Markdown, and conversations in order."""

from __future__ import annotations

import pytest

from training.conversations import Conversation, Message
from training.data.clean import Clean
from training.data.formats import Formats
from training.data.markdown import looks_like_html, to_markdown
from training.data.quality import Quality, repeated
from training.data.tool import Changed, Dropped, Tool


def talk(*turns: str, rejected: str | None = None) -> Conversation:
    """A conversation of texts; `u:`, `a:`, `s:` and `t:` say whose they are, else user and assistant take turns."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    messages: list[Message] = []
    for place, turn in enumerate(turns):
        role, colon, text = turn.partition(":")
        given = roles.get(role) if colon else None
        messages.append(Message(given or ("user", "assistant")[place % 2], text if given else turn))
    worse = () if rejected is None else (Message("assistant", rejected),)
    return Conversation(tuple(messages), rejected=worse, prompt_length=len(messages) - 1 if worse else 0)


def after(tool: Tool, given: Conversation) -> tuple[list[Conversation], list[Dropped], dict[str, int]]:
    """What a tool makes of a conversation: kept, dropped, changed."""
    outcomes = list(tool.step()(given))
    kept = [one for one in outcomes if isinstance(one, Conversation)]
    dropped = [one for one in outcomes if isinstance(one, Dropped)]
    return kept, dropped, {one.what: one.count for one in outcomes if isinstance(one, Changed)}


def texts(given: Conversation) -> list[str]:
    return [message.content for message in given.messages]


LONG = " ".join(f"reason{number}" for number in range(60))
CODE = """<p>Use <code>f</code> &amp; <strong>this</strong>:</p><pre><div class="rounded"><div>{bar}<button>Copy code
</button></div><div><code class="{of}"><span>def</span> f(x):


    return x &lt; 2
</code></div></div></pre><p>done</p>"""


@pytest.mark.parametrize(
    ("bar", "of", "language"),
    [
        ("", "hljs language-python", "python"),
        ("c++", "hljs", "c++"),
        ("", "lang-SQL", "sql"),
        ("", "", ""),
        ("Two words", "", ""),
    ],
)
def test_code_keeps_its_language_and_its_lines(bar: str, of: str, language: str) -> None:
    assert to_markdown(CODE.format(bar=bar, of=of)) == (
        f"Use `f` & **this**:\n\n```{language}\ndef f(x):\n\n\n    return x < 2\n```\n\ndone"
    )


def test_code_that_holds_a_fence_is_fenced_by_more() -> None:
    assert to_markdown("<pre><code>```\nx\n```</code></pre>") == "````\n```\nx\n```\n````"


def test_lists_and_tables() -> None:
    html = (
        "<ol><li>One<ul><li>a</li><li>b</li></ul></li><li>Two</li></ol>"
        "<table><thead><tr><th>x</th><th>a|b</th></tr></thead><tbody><tr><td>1</td><td>y</td></tr></tbody></table>"
    )
    assert to_markdown(html) == "1. One\n   - a\n   - b\n2. Two\n\n| x | a\\|b |\n| --- | --- |\n| 1 | y |"


@pytest.mark.parametrize(("around", "sign"), [("katex-inline", "$"), ("katex-display", "$$")])
def test_formulas_are_there_once_and_as_tex(around: str, sign: str) -> None:
    html = (
        f'<p>So <span class="{around}"><span class="katex"><span class="katex-mathml"><math><mi>a</mi>'
        r'<annotation encoding="application/x-tex">\frac{a_1}{b} \\ x</annotation></math></span>'
        '<span class="katex-html" aria-hidden="true">a b</span></span></span> it is.</p>'
    )
    assert to_markdown(html) == rf"So {sign}\frac{{a_1}}{{b}} \\ x{sign} it is."


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<p>Hello</p>", True),
        ("Sure:<div>x</div>", True),
        ("Use `<p>x</p>` for paragraphs.", False),
        ("```html\n<p>x</p>\n```", False),
        ("vector<int> a; if (a < b && c > d) {}", False),
        ("", False),
    ],
)
def test_what_is_html(text: str, html: bool) -> None:
    assert looks_like_html(text) == html


def test_html_of_answers_alone() -> None:
    """FastChat's tool turns everybody's texts: a question about HTML loses what it asks about."""
    given = talk("<p>Why is this red?</p>", "<p>It is <em>not</em>.</p>")
    (kept,), _, changed = after(Clean(), given)
    assert texts(kept) == ["<p>Why is this red?</p>", "It is *not*."]
    assert changed == {"HTML turned into Markdown": 1}
    (kept,), _, _ = after(Clean(html="all"), given)
    assert texts(kept) == ["Why is this red?", "It is *not*."]
    (kept,), _, _ = after(Clean(html="none"), given)
    assert kept == given


def test_html_nested_without_end_is_dropped() -> None:
    _, (dropped,), _ = after(Clean(), talk("What?", "<div>" * 3000 + "x" + "</div>" * 3000))
    assert dropped.reason == "HTML nested too deeply"


def test_words_of_buttons() -> None:
    given = talk(
        "Show me a loop.",
        "2 / 3\nHere:\n\n```\npythonCopy code\nfor x in y:\n    pass\n```\nCopy4 chars / 2 words\nDone.",
    )
    (kept,), _, changed = after(Clean(), given)
    assert texts(kept)[1] == "Here:\n\n```python\nfor x in y:\n    pass\n```\nDone."
    assert changed == {"words of buttons removed": 1}


@pytest.mark.parametrize(
    ("given", "left", "removed"),
    [
        (talk("a:Hi there", "u:A question?", "a:An answer."), ["A question?", "An answer."],
         {"messages before the first of the user removed": 1}),
        (talk("s:Be kind.", "a:Hi there", "u:A question?", "a:An answer."), ["Be kind.", "A question?", "An answer."],
         {"messages before the first of the user removed": 1}),
        (talk("A question?", "An answer.", "One more?"), ["A question?", "An answer."],
         {"messages without an answer removed": 1}),
        (talk("A question?", "An answer.", "One more?", " \n", "And?", "Yes."), ["A question?", "An answer."],
         {"messages from the first empty one on removed": 3, "messages without an answer removed": 1}),
    ],
)  # fmt: skip
def test_cuts(given: Conversation, left: list[str], removed: dict[str, int]) -> None:
    (kept,), dropped, changed = after(Clean(), given)
    assert (texts(kept), dropped, changed) == (left, [], removed)


@pytest.mark.parametrize(
    ("given", "reason", "detail"),
    [
        (talk("u:First", "u:second question", "a:answer"), "roles out of order", "message 2: user after user"),
        (talk("u:A question", "a:answer", "a:more"), "roles out of order", "message 3: assistant after assistant"),
        (talk("u:A question", "a:b", "s:Now", "a:b"), "roles out of order", "message 3: system after assistant"),
        (talk("a:I am alone here, always"), "no question with an answer", ""),
        (talk("s:Nobody asks anything here"), "no question with an answer", ""),
        (talk("Hi", "Hello"), "fewer than 16 characters", "7"),
        (talk("A long question?", "", rejected="A bad answer"), "an empty message", "message 2"),
    ],
)  # fmt: skip
def test_drops(given: Conversation, reason: str, detail: str) -> None:
    kept, (dropped,), _ = after(Clean(), given)
    assert (kept, dropped.reason, dropped.detail, dropped.conversation) == ([], reason, detail, given)


def test_tools_may_answer_between() -> None:
    call = Message("assistant", "", {"tool_calls": [{"id": "1"}]})
    found = (Message("user", "What is the time?"), call, Message("tool", "noon"), Message("assistant", "It is noon."))
    (kept,), _, _ = after(Clean(), Conversation(found))
    assert kept.messages == found


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("1. a\n1. b\n1. c", "a list that counts 1. 1. 1."),
        ("Look:\n\n```python\nx = 1\n", "a block of code without an end"),
        ("````md\n```\nx\n```\n", "a block of code without an end"),
        ("Bold is <p>this</p> here", "HTML outside code"),
        ("caf\ufffd", "characters lost in a wrong encoding"),
        ("1. a\n2. b\n3. c", None),
        ("1. a\n   1. x\n2. b\n   1. y\n3. c\n   1. z", None),
        ("```\n1. a\n1. b\n1. c\n<p>x</p>\n```", None),
        ("````md\n```\nx\n```\n````", None),
        ("1. a\n1. b", None),
        ("# A\n1. a\n# B\n1. a\n# C\n1. a", None),
    ],
)  # fmt: skip
def test_formats(answer: str, reason: str | None) -> None:
    kept, dropped, _ = after(Formats(), talk("A question?", answer))
    assert [one.reason for one in dropped] == ([reason] if reason else [])
    assert len(kept) == (0 if reason else 1)
    assert after(Formats(), talk(answer, "Yes."))[1] == []  # what the user writes is as it is


def test_formats_by_rule() -> None:
    assert after(Formats(rule=("html",)), talk("A question?", "1. a\n1. b\n1. c"))[1] == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Too many requests in 1 hour. Try again later.", "a message of the service"),
        ("An error occurred while generating the response.", "a message of the service"),
        ("As an AI language model, I cannot feel hunger.", "boilerplate of a language model"),
        ("I'm an AI language model developed by Acme, so I don't eat.", "boilerplate of a language model"),
        ("My knowledge cutoff is in 2021.", "boilerplate of a language model"),
        ("Here: 7777777777", "one digit again and again"),
        ("go on and on and " * 30, "repetition"),
        ("", "an answer of fewer than 1 words"),
        ("A thousand million is 1000000000.", None),
        ("Use retries: where the server says 'too many requests in an hour', wait. " + LONG, None),
        ("As an AI researcher, I study models.", None),
        ("42", None),
    ],
)  # fmt: skip
def test_quality(answer: str, reason: str | None) -> None:
    _, dropped, _ = after(Quality(), talk("A question?", answer))
    assert [one.reason for one in dropped] == ([reason] if reason else [])


def test_blocked_words_are_whole_words_of_anybody() -> None:
    tool = Quality(blocked_word=("Acme", "c++"))
    assert after(tool, talk("Is ACME good?", "Yes."))[1][0].detail == "ACME"
    assert after(tool, talk("Do you like it?", "I like C++ better."))[1][0].detail == "C++"
    assert after(tool, talk("Is acmeology a word?", "No."))[1] == []


def test_repetition_is_a_share() -> None:
    assert repeated(["word"] * 39) == 0.0
    assert repeated([str(number) for number in range(100)]) == 0.0
    assert repeated(["a", "b"] * 50) == pytest.approx(1 - 2 / 97)
