"""The page of a conversation, in three modes: the battle of two unknown models, two side by side by name, and one model
alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block, BlockContext
from gradio.components import Component

from webui.arena import Arena
from webui.battle import LiveBattle, NotNow, Phase
from webui.gateway import GatewayError
from webui.pages import shown
from webui.pages.chat import chatbot, liking
from webui.pages.composer import Composer, box_buttons, composer, delete_upload, read_upload
from webui.pages.desk import TOLD, Desk, sentence
from webui.pages.parameters import Parameters, parameters
from webui.pages.terms import TermsPanel, draw_terms
from webui.pages.words import Words
from webui.records import Choice, Mode, NotAgreed, Visitor

Output = Component | BlockContext
View = dict[Block, Any]

_BUTTONS: tuple[tuple[Choice, str], ...] = (
    ("a", "A is better"),
    ("tie", "Tie"),
    ("both_bad", "Both are bad"),
    ("b", "B is better"),
)

# Seconds between looks at what the mesh offers: while something is missing, and else.
_SOON, _LATER = 3, 30

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
    notice: gr.HTML  # what is wrong with the mesh, if anything is
    timer: gr.Timer  # looks for news of the mesh
    votes: tuple[gr.Button, ...]
    composer: Composer
    tools: dict[str, gr.Button]
    parameters: Parameters | None
    link: gr.HTML
    terms: TermsPanel | None
    battle: gr.State
    editing: gr.State
    following: gr.State

    @property
    def arena(self) -> Arena:
        """What is behind the page."""
        return self.desk.arena

    @property
    def outputs(self) -> list[Output]:
        """All that a handler may change."""
        own: list[Output] = [
            *self.heads,
            *self.chats,
            self.status,
            self.notice,
            self.timer,
            *self.votes,
            self.link,
            self.battle,
            self.editing,
            self.following,
        ]
        box: list[Output] = [self.composer.text, self.composer.panel, self.composer.image]
        agreeing: list[Output] = [self.terms.panel, self.terms.page] if self.terms else []
        return [*own, *box, *self.tools.values(), *self._choices, *agreeing]

    def view(self, battle: LiveBattle | None, told: str = "") -> View:
        """The whole page. `told` goes before what there is to say about the battle."""
        phase = battle.phase if battle else Phase.EMPTY
        answering = phase is Phase.ANSWERING
        open_ = battle is not None and battle.may_vote
        view: View = {
            **{chat: shown.messages(battle, side, self.desk.folder) for side, chat in enumerate(self.chats)},
            **{
                head: shown.head(battle, side, self.desk.cards)
                for side, head in enumerate(self.heads)
                if battle or self.mode != "direct"
            },
            self.status: told or shown.status(battle),
            self.battle: battle.record.id if battle else None,
            self.editing: False,
            self.following: answering,
            self.composer.text: gr.update(interactive=True, **box_buttons(answering)),
            self.tools["again"]: gr.update(interactive=phase in (Phase.ANSWERED, Phase.STOPPED, Phase.BROKEN)),
            self.tools["edit"]: gr.update(interactive=phase in (Phase.ANSWERED, Phase.STOPPED, Phase.BROKEN)),
            self.tools["new"]: gr.update(variant="primary" if phase is Phase.VOTED else "secondary"),
            self.tools["share"]: gr.update(interactive=self._may_share(battle)),
        }
        view.update({button: gr.update(interactive=open_) for button in self.votes})
        view.update({each: gr.update(interactive=phase is Phase.EMPTY) for each in self._choices})
        return view

    def refusal(self, battle: LiveBattle | None, error: Exception) -> View:
        """The whole page, and why something is not done."""
        asked = self.terms.shown(agreed=False) if self.terms and isinstance(error, NotAgreed) else {}
        return {**self.view(battle, sentence(error)), **asked}

    @property
    def _choices(self) -> list[Component]:
        """What is chosen before the first prompt, and fixed from then on."""
        return [*self.names, *(self.parameters.sliders if self.parameters else ())]

    def _may_share(self, battle: LiveBattle | None) -> bool:
        return battle is not None and battle.revealed and bool(battle.turns) and battle.phase is not Phase.ANSWERING

    def _battle(self, visitor: Visitor, state: str | None) -> LiveBattle | None:
        """What this page shows; if that is not known any more, what the visitor began last in this mode."""
        return self.arena.find(visitor, state) or self.arena.current(visitor, self.mode)

    async def follow(self, state: str | None, request: gr.Request) -> list[Any]:
        """The words of all sides, as they come. What else is on the page stays as it is: `settle` shows it."""
        battle = self._battle(await self.desk.visitor(request), state)
        page = self.desk.listeners.find(request.session_hash or "")
        words = Words(self.chats, self.desk.folder)
        if battle is not None and await page.listens():
            async for _ in self.arena.watch(battle):
                if not await page.tell(await words.event(battle)):
                    break
        chats = [shown.messages(battle, side, self.desk.folder) for side in range(len(self.chats))]
        return chats if len(chats) > 1 else chats[0]

    async def settle(self, state: str | None, following: bool, request: gr.Request) -> View:
        """The whole page, when the answers that were followed have ended."""
        if not following:
            return {self.following: False}  # nothing to do, but a view is not empty
        return self.view(self._battle(await self.desk.visitor(request), state))

    async def send(
        self, request: gr.Request, text: str, image: str | None, state: str | None, editing: bool, *rest: Any
    ) -> View:
        """A prompt; `rest` are the values of what is chosen before the first one."""
        battle: LiveBattle | None = None
        try:
            visitor = await self.desk.visitor(request)
            battle = self._battle(visitor, state)
            pictures = await self.arena.admit(visitor, text, read_upload(image))
            if battle is None or battle.phase is Phase.VOTED:
                battle = await self._begin(visitor, rest, images=bool(pictures))
            await self.arena.ask(battle, text, pictures, edit=editing)
        except TOLD as error:
            return {**self.refusal(battle, error), self.editing: editing, self.composer.image: gr.skip()}
        delete_upload(image, self.desk.folder)
        return {**self.view(battle), **self._cleared(answering=True)}

    async def _begin(self, visitor: Visitor, rest: Sequence[Any], *, images: bool) -> LiveBattle:
        if self.mode == "battle":
            return await self.arena.begin(visitor, "battle", images=images)
        models = rest[: len(self.names)] or [self.single]
        if not all(models):  # who is quick sends before the page has been told the names
            served = [model.name for model in await self.arena.gateway.models()]
            if not served:
                raise NotNow("The mesh serves no model just now.")
            models = [name or served[min(side, len(served) - 1)] for side, name in enumerate(models)]
        chosen = self.parameters.chosen(rest[len(self.names) :]) if self.parameters else {}
        return await self.arena.begin(visitor, self.mode, models, images=images, parameters=chosen)

    async def again(self, state: str | None, request: gr.Request) -> View:
        """The last prompt once more."""
        battle: LiveBattle | None = None
        try:
            visitor = await self.desk.visitor(request)
            battle = self._battle(visitor, state)
            if battle is None:
                raise NotNow("This conversation is not here any more: start a new one.")
            await self.arena.again(visitor, battle)
        except TOLD as error:
            return self.refusal(battle, error)
        return self.view(battle)

    async def stop(self, state: str | None, request: gr.Request) -> None:
        """Stop the answers. The handler that follows them shows the end."""
        battle = self._battle(await self.desk.visitor(request), state)
        if battle is not None:
            self.arena.stop(battle.record.id)

    async def edit(self, state: str | None, request: gr.Request) -> View:
        """Put the last prompt into the box again."""
        battle = self._battle(await self.desk.visitor(request), state)
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
            battle = self._battle(visitor, state)
            if battle is None:
                raise NotNow("There is no battle to vote on.")
            await self.arena.vote(visitor, battle, choice)
        except TOLD as error:
            return self.refusal(battle, error)
        return self.view(battle)

    async def share(self, state: str | None, request: gr.Request) -> View:
        """A link to what is shown here."""
        try:
            battle = self._battle(await self.desk.visitor(request), state)
            if battle is None:
                raise NotNow("There is nothing to share yet.")
            key = await self.arena.share(battle)
        except TOLD as error:
            return {self.status: sentence(error)}
        return {self.link: shown.permalink(key)}

    async def agree(self, request: gr.Request) -> View:
        """The visitor agrees to the terms."""
        assert self.terms is not None
        try:
            await self.arena.agree(await self.desk.visitor(request))
        except TOLD as error:
            gr.Warning(sentence(error))
            return {self.status: gr.skip()}
        return {self.status: "", **self.terms.shown(agreed=True)}

    async def load(self, request: gr.Request) -> View:
        """The page is opened, or opened again: what goes on is shown on."""
        try:
            visitor = await self.desk.visitor(request)
            await self.arena.resume(visitor, self.mode)
            agreeing = self.terms.shown(await self.arena.has_agreed(visitor)) if self.terms else {}
        except TOLD as error:
            told = self.terms.shown(agreed=True) if self.terms else {}
            return {**self.view(None, sentence(error)), **told}
        offer = await self.offer([None] * len(self.names))
        # Last, so that it knows of a prompt that was sent while the page was still loading.
        battle = self.arena.current(visitor, self.mode)
        if battle is not None:
            offer.update({name: self._chosen(battle, side) for side, name in enumerate(self.names)})
        return {**self.view(battle), **offer, **agreeing}

    def _chosen(self, battle: LiveBattle, side: int) -> Any:
        model = battle.record.models[side]
        return gr.update(choices=[model], value=model, interactive=False)

    async def tick(self, request: gr.Request, *chosen: str | None) -> View:
        """Look whether the mesh offers something else by now; `chosen` are the models that are."""
        del request
        return await self.offer(chosen)

    async def offer(self, chosen: Sequence[str | None]) -> View:
        """What the mesh offers now, and what it lacks."""
        try:
            models = await self.arena.gateway.models()
        except GatewayError as error:
            return {self.notice: shown.failure(error.code), self.timer: gr.Timer(_SOON, active=True)}
        enough = 2 if self.mode == "battle" else 1
        lacking = len(models) < enough
        view: View = {
            self.notice: shown.too_few(len(models), enough) if lacking else "",
            self.timer: gr.Timer(_SOON if lacking else _LATER, active=True),
            self.composer.panel: gr.update(visible=sum(model.vision for model in models) >= enough),
        }
        names = [model.name for model in models]
        for side, (dropdown, name) in enumerate(zip(self.names, chosen, strict=True)):
            value = name or (names[min(side, len(names) - 1)] if names else None)
            view[dropdown] = gr.update(choices=sorted({*names, *filter(None, [name])}), value=value)
        return view

    def _cleared(self, *, answering: bool) -> View:
        text = gr.update(value="", **box_buttons(answering))
        return {self.composer.text: text, self.composer.image: None, self.link: ""}


def build(desk: Desk, blocks: gr.Blocks, mode: Mode, single: str | None = None) -> None:
    """Draw the page. With `single` there is that model to talk to, and no choice."""
    terms = draw_terms(desk.arena.terms, mode) if desk.arena.terms else None
    with terms.page if terms else nullcontext():
        talk = _draw(desk, mode, single, terms)
    _wire(talk, blocks)


def _draw(desk: Desk, mode: Mode, single: str | None, terms: TermsPanel | None) -> Talk:
    sides = 1 if mode == "direct" else 2
    names: tuple[gr.Dropdown, ...] = () if mode == "battle" or single else _names(mode, sides)
    with gr.Row(elem_classes="sides", equal_height=True):
        heads, chats = zip(*[_side(mode, side) for side in range(sides)], strict=True)
    status = gr.HTML("", elem_id=f"{mode}-status", elem_classes="status")
    notice = gr.HTML("", elem_id=f"{mode}-notice", elem_classes="notice")
    votes: list[gr.Button] = []
    if mode != "direct":
        with gr.Row(elem_classes="votes", elem_id=f"{mode}-votes"):
            votes = [_vote_button(mode, choice, text) for choice, text in _BUTTONS]
    box = composer(mode, "Ask something …" if mode == "direct" else "Ask both models something …", desk.folder)
    with gr.Row(elem_classes="tools"):
        tools = _tools(mode)
    link = gr.HTML("", elem_id=f"{mode}-link", elem_classes="permalink")
    settings = None if mode == "battle" else parameters(desk.config)
    return Talk(
        desk=desk,
        mode=mode,
        single=single,
        names=names,
        heads=heads,
        chats=chats,
        status=status,
        notice=notice,
        timer=gr.Timer(_LATER),
        votes=tuple(votes),
        composer=box,
        tools=tools,
        parameters=settings,
        link=link,
        terms=terms,
        battle=gr.State(None),
        editing=gr.State(False),
        following=gr.State(False),
    )


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
        head = gr.HTML(shown.head(None, side, {}) if mode != "direct" else "", elem_id=f"{mode}-head-{letter}")
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
    given: list[Component] = [talk.composer.text, talk.composer.image, talk.battle, talk.editing]
    given += [*talk.names, *(talk.parameters.sliders if talk.parameters else ())]
    every: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
    box, tools = talk.composer, talk.tools
    begun = [box.text.submit(talk.send, given, talk.outputs, **every)]
    box.text.stop(talk.stop, talk.battle, None, **every)
    begun.append(tools["again"].click(talk.again, talk.battle, talk.outputs, **every))
    tools["edit"].click(talk.edit, talk.battle, talk.outputs, **every)
    tools["share"].click(talk.share, talk.battle, talk.outputs, **every)
    tools["new"].click(talk.new, None, talk.outputs, **every)
    for button, (choice, _) in zip(talk.votes, _BUTTONS, strict=False):
        button.click(talk.voting(choice), talk.battle, talk.outputs, **every)
    for side, chat in enumerate(talk.chats):
        chat.like(liking(talk.desk, side), talk.battle, None, **every)
    if talk.terms:
        talk.terms.agree.click(talk.agree, None, talk.outputs, **every)
    talk.timer.tick(talk.tick, list(talk.names), talk.outputs, **every)
    begun.append(blocks.load(talk.load, None, talk.outputs, **every))
    for event in begun:
        followed = event.then(talk.follow, talk.battle, list(talk.chats), **every)
        followed.then(talk.settle, [talk.battle, talk.following], talk.outputs, **every)
