"""The page of a conversation, in three modes: the battle of two unknown models, two side by side by name, and one model
alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.arena import Arena
from webui.battle import LiveBattle, NotNow, Phase
from webui.pages import shown
from webui.pages.chat import chatbot, liking
from webui.pages.composer import Composer, box_buttons, composer, delete_upload, read_upload
from webui.pages.desk import TOLD, Desk, sentence
from webui.pages.parameters import Parameters, parameters
from webui.records import Choice, Mode, Visitor

View = dict[Block, Any]

_BUTTONS: tuple[tuple[Choice, str], ...] = (
    ("a", "A is better"),
    ("tie", "Tie"),
    ("both_bad", "Both are bad"),
    ("b", "B is better"),
)

_PLACES: dict[Mode, str] = {
    "battle": "One of two models answers here. You are told which one once you have voted.",
    "named": "The answers of this model come here.",
    "direct": "",
}


@dataclass(frozen=True, slots=True)
class Talk:
    """The components of the page, and what happens at each event."""

    desk: Desk
    mode: Mode
    single: str | None  # the one model that there is to talk to
    names: tuple[gr.Dropdown, ...]  # what chooses the models: none in battles, and with a single one
    heads: tuple[gr.HTML, ...]  # of each side
    chats: tuple[gr.Chatbot, ...]
    status: gr.HTML
    votes: tuple[gr.Button, ...]
    composer: Composer
    tools: dict[str, gr.Button]
    parameters: Parameters | None
    link: gr.HTML
    battle: gr.State
    editing: gr.State

    @property
    def arena(self) -> Arena:
        """What is behind the page."""
        return self.desk.arena

    @property
    def outputs(self) -> list[Block]:
        """All that a handler may change."""
        own: list[Block] = [
            *self.heads,
            *self.chats,
            self.status,
            *self.votes,
            self.link,
            self.battle,
            self.editing,
        ]
        box: list[Block] = [self.composer.text, self.composer.panel, self.composer.image]
        return [*own, *box, *self.tools.values(), *self._choices]

    def words(self, battle: LiveBattle | None) -> View:
        """The two conversations."""
        return {chat: shown.messages(battle, side, self.desk.folder) for side, chat in enumerate(self.chats)}

    def view(self, battle: LiveBattle | None, told: str = "") -> View:
        """The whole page. `told` goes before what there is to say about the battle."""
        phase = battle.phase if battle else Phase.EMPTY
        answering = phase is Phase.ANSWERING
        open_ = battle is not None and battle.may_vote
        view: View = {
            **self.words(battle),
            **{head: shown.head(battle, side, self.desk.cards) for side, head in enumerate(self.heads)},
            self.status: told or shown.status(battle),
            self.battle: battle.record.id if battle else None,
            self.editing: False,
            self.composer.text: gr.update(**box_buttons(answering)),
            self.tools["again"]: gr.update(interactive=phase in (Phase.ANSWERED, Phase.STOPPED, Phase.BROKEN)),
            self.tools["edit"]: gr.update(interactive=phase in (Phase.ANSWERED, Phase.STOPPED, Phase.BROKEN)),
            self.tools["new"]: gr.update(variant="primary" if phase is Phase.VOTED else "secondary"),
            self.tools["share"]: gr.update(interactive=self._may_share(battle)),
        }
        view.update({button: gr.update(interactive=open_) for button in self.votes})
        view.update({each: gr.update(interactive=phase is Phase.EMPTY) for each in self._choices})
        return view

    @property
    def _choices(self) -> list[Block]:
        """What is chosen before the first prompt, and fixed from then on."""
        return [*self.names, *(self.parameters.sliders if self.parameters else ())]

    def _may_share(self, battle: LiveBattle | None) -> bool:
        return battle is not None and battle.revealed and bool(battle.turns) and battle.phase is not Phase.ANSWERING

    async def follow(self, battle: LiveBattle, first: View) -> AsyncIterator[View]:
        """The page as long as answers come: whole at first and at the end, between them only the words."""
        yield {**self.view(battle), **first}
        async for _ in self.arena.watch(battle):
            yield self.words(battle)
        yield self.view(battle)

    async def send(
        self, request: gr.Request, text: str, image: str | None, state: str | None, editing: bool, *rest: Any
    ) -> AsyncIterator[View]:
        """A prompt; `rest` are the values of what is chosen before the first one."""
        battle: LiveBattle | None = None
        try:
            visitor = await self.desk.visitor(request)
            battle = self.arena.find(visitor, state)
            pictures = await self.arena.admit(visitor, text, read_upload(image))
            if battle is None or battle.phase is Phase.VOTED:
                battle = await self._begin(visitor, rest, images=bool(pictures))
            await self.arena.ask(battle, text, pictures, edit=editing)
        except TOLD as error:
            yield {**self.view(battle, sentence(error)), self.editing: editing}
            return
        delete_upload(image)
        async for view in self.follow(battle, self._cleared(answering=True)):
            yield view

    async def _begin(self, visitor: Visitor, rest: Sequence[Any], *, images: bool) -> LiveBattle:
        if self.mode == "battle":
            return await self.arena.begin(visitor, "battle", images=images)
        models = rest[: len(self.names)] or [self.single]
        if not all(models):
            raise NotNow("Choose a model first.")
        chosen = self.parameters.chosen(rest[len(self.names) :]) if self.parameters else {}
        return await self.arena.begin(visitor, self.mode, models, images=images, parameters=chosen)

    async def again(self, state: str | None, request: gr.Request) -> AsyncIterator[View]:
        """The last prompt once more."""
        battle: LiveBattle | None = None
        try:
            battle = self.arena.find(await self.desk.visitor(request), state)
            if battle is None:
                raise NotNow("This conversation is not here any more: start a new one.")
            self.arena.again(battle)
        except TOLD as error:
            yield self.view(battle, sentence(error))
            return
        async for view in self.follow(battle, {}):
            yield view

    async def stop(self, state: str | None, request: gr.Request) -> None:
        """Stop the answers. The handler that follows them shows the end."""
        battle = self.arena.find(await self.desk.visitor(request), state)
        if battle is not None:
            self.arena.stop(battle.record.id)

    async def edit(self, state: str | None, request: gr.Request) -> View:
        """Put the last prompt into the box again."""
        battle = self.arena.find(await self.desk.visitor(request), state)
        if battle is None or not battle.turns:
            return self.view(battle)
        told = "You are editing your last prompt: what was answered to it is replaced when you send it."
        return {**self.view(battle, told), self.editing: True, self.composer.text: battle.turns[-1].prompt}

    async def new(self, request: gr.Request) -> View:
        """Leave this battle for another one."""
        try:
            self.arena.leave(await self.desk.visitor(request), self.mode)
        except TOLD as error:
            return self.view(None, sentence(error))
        return {**self.view(None), **self._cleared(answering=False)}

    def voting(self, choice: Choice) -> Callable[[str | None, gr.Request], Awaitable[View]]:
        """The handler of a button. (Gradio reads its signature: it must be a function.)"""

        async def vote(state: str | None, request: gr.Request) -> View:
            return await self.vote(choice, state, request)

        return vote

    async def vote(self, choice: Choice, state: str | None, request: gr.Request) -> View:
        """A vote; what is shown after it was kept before."""
        battle: LiveBattle | None = None
        try:
            visitor = await self.desk.visitor(request)
            battle = self.arena.find(visitor, state)
            if battle is None:
                raise NotNow("There is no battle to vote on.")
            await self.arena.vote(visitor, battle, choice)
        except TOLD as error:
            return self.view(battle, sentence(error))
        return self.view(battle)

    async def share(self, state: str | None, request: gr.Request) -> View:
        """A link to what is shown here."""
        try:
            battle = self.arena.find(await self.desk.visitor(request), state)
            if battle is None:
                raise NotNow("There is nothing to share yet.")
            key = await self.arena.share(battle)
        except TOLD as error:
            return {self.status: sentence(error)}
        return {self.link: shown.permalink(key)}

    async def load(self, request: gr.Request) -> AsyncIterator[View]:
        """The page is opened, or opened again: what goes on is shown on."""
        try:
            visitor = await self.desk.visitor(request)
            battle = self.arena.current(visitor, self.mode)
            ready = await self.ready(battle)
        except TOLD as error:
            yield self.view(None, sentence(error))
            return
        if battle is not None and battle.phase is Phase.ANSWERING:
            async for view in self.follow(battle, ready):
                yield view
        else:
            yield {**self.view(battle), **ready}

    async def ready(self, battle: LiveBattle | None) -> View:
        """What the mesh offers now. Raises GatewayError."""
        models = await self.arena.gateway.models()
        enough = 2 if self.mode == "battle" else 1
        view: View = {self.composer.panel: gr.update(visible=sum(model.vision for model in models) >= enough)}
        names = [model.name for model in models]
        for side, dropdown in enumerate(self.names):
            value = battle.record.models[side] if battle else names[min(side, len(names) - 1)] if names else None
            view[dropdown] = gr.update(choices=names, value=value, interactive=battle is None)
        if self.mode == "battle" and len(models) < 2:
            view[self.status] = shown.too_few(len(models))
        return view

    def _cleared(self, *, answering: bool) -> View:
        text = gr.update(value="", **box_buttons(answering))
        return {self.composer.text: text, self.composer.image: None, self.link: ""}


def build(desk: Desk, blocks: gr.Blocks, mode: Mode, single: str | None = None) -> None:
    """Draw the page. With `single` there is that model to talk to, and no choice."""
    sides = 1 if mode == "direct" else 2
    names: tuple[gr.Dropdown, ...] = () if mode == "battle" or single else _names(mode, sides)
    with gr.Row(elem_classes="sides", equal_height=True):
        heads, chats = zip(*[_side(mode, side) for side in range(sides)], strict=True)
    status = gr.HTML("", elem_id=f"{mode}-status", elem_classes="status")
    votes: list[gr.Button] = []
    if mode != "direct":
        with gr.Row(elem_classes="votes", elem_id=f"{mode}-votes"):
            votes = [_vote_button(mode, choice, text) for choice, text in _BUTTONS]
    box = composer(mode, "Ask something …" if mode == "direct" else "Ask both models something …", desk.folder)
    with gr.Row(elem_classes="tools"):
        tools = _tools(mode)
    link = gr.HTML("", elem_id=f"{mode}-link", elem_classes="permalink")
    settings = None if mode == "battle" else parameters(desk.config)
    talk = Talk(
        desk=desk,
        mode=mode,
        single=single,
        names=names,
        heads=heads,
        chats=chats,
        status=status,
        votes=tuple(votes),
        composer=box,
        tools=tools,
        parameters=settings,
        link=link,
        battle=gr.State(None),
        editing=gr.State(False),
    )
    _wire(talk, blocks)


def _names(mode: str, sides: int) -> tuple[gr.Dropdown, ...]:
    with gr.Row(elem_classes="names"):
        return tuple(
            gr.Dropdown(
                label=f"Model {letter}" if sides > 1 else "Model",
                choices=[],
                interactive=True,
                elem_id=f"{mode}-model-{letter.lower()}",
            )
            for letter in "AB"[:sides]
        )


def _side(mode: Mode, side: int) -> tuple[gr.HTML, gr.Chatbot]:
    letter = "ab"[side]
    with gr.Column(min_width=300, elem_classes=["side", f"side-{letter}"]):
        head = gr.HTML(shown.head(None, side, {}), elem_id=f"{mode}-head-{letter}")
        return head, chatbot(f"{mode}-chat-{letter}", f"Answers of model {letter.upper()}", _PLACES[mode])


def _vote_button(mode: str, choice: str, text: str) -> gr.Button:
    return gr.Button(text, interactive=False, elem_id=f"{mode}-vote-{choice}", elem_classes=["vote", f"vote-{choice}"])


def _tools(mode: str) -> dict[str, gr.Button]:
    words = {"again": "Answer again", "edit": "Edit last prompt", "share": "Share"}
    tools = {
        name: gr.Button(text, size="sm", interactive=False, elem_id=f"{mode}-{name}") for name, text in words.items()
    }
    tools["new"] = gr.Button("New battle" if mode == "battle" else "Start anew", size="sm", elem_id=f"{mode}-new")
    return tools


def _wire(talk: Talk, blocks: gr.Blocks) -> None:
    """Say what happens at which event. Nothing waits for anything else, and no call is part of an API."""
    given: list[Block] = [talk.composer.text, talk.composer.image, talk.battle, talk.editing]
    given += [*talk.names, *(talk.parameters.sliders if talk.parameters else ())]
    every: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
    box, tools = talk.composer, talk.tools
    box.text.submit(talk.send, given, talk.outputs, **every)
    box.text.stop(talk.stop, talk.battle, None, **every)
    tools["again"].click(talk.again, talk.battle, talk.outputs, **every)
    tools["edit"].click(talk.edit, talk.battle, talk.outputs, **every)
    tools["share"].click(talk.share, talk.battle, talk.outputs, **every)
    tools["new"].click(talk.new, None, talk.outputs, **every)
    for button, (choice, _) in zip(talk.votes, _BUTTONS, strict=False):
        button.click(talk.voting(choice), talk.battle, talk.outputs, **every)
    for side, chat in enumerate(talk.chats):
        chat.like(liking(talk.desk, side), talk.battle, None, **every)
    blocks.load(talk.load, None, talk.outputs, **every)
