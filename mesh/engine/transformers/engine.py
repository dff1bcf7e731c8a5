"""The default engine: any causal or encoder-decoder model of transformers, in batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from mesh.engine.base import (
    Chat,
    Classification,
    Constraint,
    Embeddings,
    Engine,
    Load,
    Message,
    ModelInfo,
    Prompt,
    Request,
    StepListener,
    Text,
    TextPair,
    Tokens,
)
from mesh.engine.best_of import BestOfTracker, generated, picks
from mesh.engine.calls import demands_calls
from mesh.engine.chat import with_template_stops
from mesh.engine.constraint import Grammars, Matcher
from mesh.engine.output import OutputTracker, check_token_ids
from mesh.engine.transformers.adapters import Adapters
from mesh.engine.transformers.build import Served, build
from mesh.engine.transformers.core import Core, Report
from mesh.engine.transformers.embedding.classifier import Classifier, characters
from mesh.engine.transformers.embedding.embedder import Embedder
from mesh.engine.transformers.embedding.queue import EmbedQueue
from mesh.engine.transformers.lora.config import AdapterSource
from mesh.engine.transformers.options import EngineOptions
from mesh.engine.transformers.parallel.plan import choose_ranks
from mesh.engine.transformers.parallel.ranks import Ranks
from mesh.engine.transformers.reporter import Reporter
from mesh.engine.transformers.scheduling.blocks import extend_digests, scope_digest
from mesh.engine.transformers.scheduling.sequence import Row, Work
from mesh.engine.transformers.thread import Command, EngineThread, beside
from mesh.engine.transformers.vision.pictures import Pictures
from mesh.errors import ErrorKind, MeshError, invalid, unsupported
from mesh.log import kv

log = logging.getLogger(__name__)

# Texts of more characters, and prompts of more tokens, are worked on by another thread: the event loop goes on.
_LONG_TEXT = 4096
# What a message costs a chat template beyond its text, in characters of text.
_MESSAGE_COST = 64
# Log probabilities that are reported of one prompt: more would hold up the event loop, and make a message of megabytes.
_MOST_SCORES = 1 << 16
# Requests whose pictures are decoded at a time: each may take several hundred megabytes meanwhile.
_DECODERS = 2
# A step that hangs must not keep the process from ending.
_STOP_SECONDS = 10.0


class TransformersEngine(Engine):
    """Serves one model. See mesh.engine.base.Engine for the contract."""

    name = "transformers"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._served: Served | None = None
        self._adapters: Adapters | None = None
        self._listener: StepListener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reporter = Reporter(self._call)
        self._submitting: dict[int, int] = {}  # rows of requests that are accepted, but not yet handed to the thread
        self._broken = asyncio.Event()
        self._decoding = asyncio.Semaphore(_DECODERS)
        self._order = 0
        # Rows handed to the thread, with the number of the command that did it, until the thread has taken that.
        self._sent = 0
        self._in_transit: list[tuple[int, int]] = []
        self._embeds = EmbedQueue(lambda run: self._call(lambda _: run()), options.max_waiting)
        self._thread = EngineThread(self._build, self._deliver)
        self._ranks: Ranks | None = None
        self._core: Core | None = None

    # Life

    async def start(self, listener: StepListener) -> None:
        """See Engine."""
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._broken.clear()
        self._thread.start()
        self._core = await asyncio.wrap_future(self._thread.ready)
        assert self._served is not None
        self._adapters = Adapters(self._served, self._options.max_loras)
        for source in self._options.adapters:
            await self._adapters.load(source)

    def _build(self) -> Core:
        try:
            options = choose_ranks(self._options)
            if options.model.ranks > 1:
                self._ranks = Ranks(self._thread.give_up, lambda: self._thread.busy)
                options = self._ranks.start(options)
            core, self._served = build(options, self._ranks)
        except MeshError:
            raise
        except Exception as error:
            log.exception("the model could not be made ready")
            path = self._options.model.path
            text = f"the model at '{path}' could not be made ready: {type(error).__name__}: {error}"
            raise MeshError(ErrorKind.ENGINE_FAILED, text) from None
        return core

    async def stop(self) -> None:
        """See Engine."""
        self._listener = None
        self._embeds.fail_all(MeshError(ErrorKind.DRAINING, "the engine has been stopped"))
        self._thread.stop()
        if not await asyncio.to_thread(self._thread.join, _STOP_SECONDS):
            log.error("the engine's thread did not end", extra=kv(seconds=_STOP_SECONDS))
        # The thread's result holds the model as well.
        if self._ranks is not None:
            await asyncio.to_thread(self._ranks.close)
        self._adapters, self._ranks = None, None
        self._core, self._served, self._thread = None, None, EngineThread(self._build, self._deliver)

    @property
    def models(self) -> Sequence[ModelInfo]:
        """See Engine."""
        if self._served is None or self._adapters is None:
            return []
        adapters = self._adapters.infos
        base = replace(self._served.info, adapters=tuple(info.name for info in adapters))
        return [base, *adapters]

    async def load_adapter(self, base: str, name: str, path: str) -> ModelInfo:
        """See Engine."""
        adapters = self._adapters_of(base)
        return await adapters.load(AdapterSource(name, path))

    async def unload_adapter(self, name: str) -> None:
        """See Engine."""
        self._adapters_of("").unload(name)

    def _adapters_of(self, base: str) -> Adapters:
        served = self._serving(base)
        if served.adapter is not None:
            raise invalid("base", f"'base' names '{base}', which is an adapter itself")
        assert self._adapters is not None
        return self._adapters

    # Requests

    async def submit(self, request: Request) -> None:
        """See Engine."""
        served = self._serving(request.model, request.adapter)
        arrived = time.monotonic()
        if "completion" not in served.info.capabilities:
            raise unsupported("model", f"model '{served.info.name}' does not generate texts")
        self._refuse_overload(generated(request).sampling.n)
        check_token_ids(request.sampling, served.info.vocab_size)
        _check_resume(request, served.token_limit)
        held = demands_calls(request)
        if request.constraint is not None or held:
            # The grammar alone says when it is complete, and an answer that is has no other token than the end.
            request = replace(request, sampling=replace(request.sampling, min_tokens=0, ignore_eos=False))
        request, stops = with_template_stops(request, served.chat)
        every = generated(request)
        self._submitting[request.key] = every.sampling.n
        try:
            prompt, pictures = await self._encode(served, request.prompt)
            _check_prompt_logprobs(served, request, len(prompt))
            digests = await self._digests(served, every, pictures.keys if pictures else prompt)
            matchers = await self._matchers(served, _held(served, every, prompt, calls=held))
            if request.key not in self._submitting:
                return  # cancelled meanwhile
        finally:
            self._submitting.pop(request.key, None)
        self._serving(request.model, request.adapter)  # it may have stopped or broken down meanwhile
        tracker = _tracker(served, request, prompt, stops, arrived)
        work = self._work(every, prompt, tracker, matchers)
        work.adapter = served.adapter
        work.root, work.prompt_digests = digests
        work.pictures = pictures
        self._reporter.add(tracker, refund=every.credit is not None)
        self._in_transit.append((self._sent + 1, len(work.rows)))
        self._call(lambda core: core.add(work))

    def _serving(self, model: str, adapter: str | None = None) -> Served:
        served = self._served
        if served is None or self._listener is None:
            raise MeshError(ErrorKind.DRAINING, "the engine is not running")
        if self._thread.broken:
            raise MeshError(ErrorKind.ENGINE_FAILED, "the engine has broken down")
        name = adapter or model
        if name in ("", served.info.name):
            return served
        if self._adapters is not None and (adapted := self._adapters.find(name)):
            return adapted
        raise MeshError(
            ErrorKind.MODEL_NOT_FOUND,
            f"model '{name}' is not served here: the served model is '{served.info.name}'",
            param="model",
        )

    def _refuse_overload(self, rows: int) -> None:
        waiting, limit = self.load().waiting, self._options.max_waiting
        if waiting and waiting + rows > limit:
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"the queue of this worker holds {waiting} rows and takes at most {limit}",
                retry_after=self._core.queue_seconds if self._core else None,
            )

    async def _encode(self, served: Served, prompt: Prompt) -> tuple[list[int], Pictures | None]:
        pictures = None
        if isinstance(prompt, Tokens):
            ids = list(prompt.ids)
        elif isinstance(prompt, Chat) and prompt.has_images:
            ids, pictures = await self._see(served, prompt)
        else:
            encode = partial(served.encode, prompt)
            ids = await asyncio.to_thread(encode) if _text_length(prompt) > _LONG_TEXT else encode()
        if not ids:
            raise invalid("prompt", "'prompt' must have at least 1 token, not 0")
        _check_ids("prompt", ids, served.token_limit)
        return ids, pictures

    async def _see(self, served: Served, prompt: Chat) -> tuple[list[int], Pictures]:
        if served.pictures is None:
            raise unsupported("messages", f"'messages' holds an image, which '{served.info.name}' cannot see")
        async with self._decoding:
            return await beside(partial(served.pictures.encode, prompt))

    async def _digests(self, served: Served, request: Request, prompt: list[int]) -> tuple[bytes | None, list[bytes]]:
        """The root and the pages' digests of the prompt, for the prefix cache."""
        root = self._root(served, request)
        digests: list[bytes] = []
        if root is not None:
            extend = partial(extend_digests, digests, root, prompt, served.page_size, len(prompt))
            await asyncio.to_thread(extend) if len(prompt) > _LONG_TEXT else extend()
        return root, digests

    async def _matchers(self, served: Served, request: Request) -> dict[int, Matcher]:
        """A matcher for each choice that may need more tokens, none without a constraint."""
        if request.constraint is None:
            return {}
        if served.grammars is None:
            raise unsupported("constraint", "'constraint' is not supported by this model's tokenizer")
        return await asyncio.to_thread(_make_matchers, served.grammars, request, request.constraint)

    def _work(
        self, request: Request, prompt: list[int], tracker: OutputTracker, matchers: Mapping[int, Matcher]
    ) -> Work:
        self._order += 1
        work = Work(
            request.key,
            self._order,
            request.sampling,
            prompt,
            priority=request.priority,
            credit=request.credit,
            deadline=request.deadline,
            logprobs=request.output.logprobs,
            prompt_logprobs=request.output.prompt_logprobs or 0,
            scores=None if request.output.prompt_logprobs is None or request.resume else [],
        )
        for choice in tracker.open_choices:
            progress = request.resume.get(choice)
            tokens = prompt + list(progress.token_ids) if progress else prompt[:]
            most, least = len(prompt) + tracker.limit, len(prompt) + request.sampling.min_tokens + 1
            matcher = matchers.get(choice)
            work.rows.append(Row(work, choice, tokens, most, least, tracker.ending, matcher=matcher))
        return work

    def _root(self, served: Served, request: Request) -> bytes | None:
        """The scope of the prefix cache: a tenant with its salt, else, for the choices of one prompt, the request."""
        if not served.shares_prefix:
            return None
        if self._options.prefix_cache:
            # Not by its name, under which other weights may be loaded later.
            adapter = served.adapter.fingerprint if served.adapter is not None else ""
            return scope_digest("shared", request.tenant, request.cache_salt, adapter)
        return scope_digest("request", str(request.key)) if request.sampling.n > 1 else None

    def cancel(self, key: int) -> None:
        """See Engine."""
        self._submitting.pop(key, None)
        if self._reporter.discard(key):
            self._call(lambda core: core.cancel(key))

    def grant(self, key: int, tokens: int) -> None:
        """See Engine."""
        if key in self._reporter:
            self._call(lambda core: core.grant(key, tokens))

    def _call(self, command: Command) -> None:
        self._sent += 1
        self._thread.call(command)

    def _deliver(self, report: Report) -> None:
        """On the engine's thread: hand over to the event loop, once per step."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._publish, report)
        except RuntimeError:
            log.debug("the event loop has ended before the engine")

    def _publish(self, report: Report) -> None:
        if report.broken:
            self._broken.set()
            self._embeds.fail_all(MeshError(ErrorKind.ENGINE_FAILED, "the engine has broken down"))
        if self._listener is not None:
            self._listener(self._reporter.step(report))

    async def wait_broken(self) -> None:
        """See Engine."""
        await self._broken.wait()

    # What is known

    def load(self) -> Load:
        """See Engine. Counts what the thread has not yet seen as waiting, from its acceptance on."""
        load, taken = self._thread.seen
        self._in_transit = [(number, rows) for number, rows in self._in_transit if number > taken]
        unseen = sum(rows for _, rows in self._in_transit) + sum(self._submitting.values())
        if self._served is not None and "completion" not in self._served.info.capabilities:
            embeds = self._embeds
            return replace(load, running=embeds.running, waiting=embeds.waiting, steps=embeds.batches)
        return replace(load, waiting=load.waiting + unseen)

    def stats(self) -> dict[str, float]:
        """See Engine."""
        return {**self._core.stats(), **self._embeds.stats()} if self._core else {}

    async def embed(
        self,
        model: str,
        inputs: Sequence[Text | Tokens],
        *,
        dimensions: int | None,
        normalize: bool | None,
        truncate: bool,
    ) -> Embeddings:
        """See Engine. Inputs of all clients share batches."""
        served = self._serving(model)
        embedder = served.embedder
        if embedder is None or "embed" not in served.info.capabilities:
            raise unsupported("model", f"model '{served.info.name}' does not embed")
        embedder.check_dimensions(dimensions)
        encode = partial(_encode_inputs, served, embedder, inputs, truncate)
        length = sum(len(each.text) for each in inputs if isinstance(each, Text))
        ids = await asyncio.to_thread(encode) if length > _LONG_TEXT else encode()
        self._serving(model)  # it may have stopped or broken down meanwhile
        vectors = await self._embeds.embed(embedder, ids)
        finish = partial(embedder.finish, vectors, dimensions, normalize)
        rows = await beside(finish) if len(ids) > 1 else finish()
        return Embeddings(rows, sum(map(len, ids)))

    async def classify(
        self, model: str, inputs: Sequence[Text | TextPair], *, raw: bool, truncate: bool
    ) -> Classification:
        """See Engine. Inputs of all clients share batches."""
        served = self._serving(model)
        classifier = served.embedder
        if not isinstance(classifier, Classifier):
            raise unsupported("model", f"model '{served.info.name}' does not classify")
        encode = partial(_encode_classified, served, classifier, inputs, truncate)
        ids = await asyncio.to_thread(encode) if sum(map(characters, inputs)) > _LONG_TEXT else encode()
        self._serving(model)  # it may have stopped or broken down meanwhile
        logits = await self._embeds.embed(classifier, ids)
        scores = classifier.scores(logits, raw=raw)
        exclusive = classifier.activation == "softmax" and not raw
        return Classification(classifier.labels, scores, sum(map(len, ids)), exclusive)

    async def tokenize(self, model: str, prompt: Text | Chat, *, add_special_tokens: bool = True) -> list[int]:
        """See Engine."""
        served = self._serving(model)
        if isinstance(prompt, Chat):
            return (await self._encode(served, prompt))[0]
        encode = partial(served.encode, prompt, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(encode) if _text_length(prompt) > _LONG_TEXT else encode()

    async def detokenize(self, model: str, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """See Engine."""
        served = self._serving(model)
        decode = partial(served.tokenizer.decode, ids, keep_special_tokens=keep_special_tokens)
        return await asyncio.to_thread(decode) if len(ids) > _LONG_TEXT else decode()

    async def tokenizer_files(self, model: str) -> dict[str, bytes]:
        """See Engine."""
        return await asyncio.to_thread(self._serving(model).chat.files)


def _text_length(prompt: Text | Chat) -> int:
    """About how many characters have to be rendered and tokenized; counted only as far as the answer matters."""
    if isinstance(prompt, Text):
        return len(prompt.text)
    if prompt.chat_template is not None or prompt.tools or prompt.template_arguments:
        return _LONG_TEXT + 1  # a schema's or a foreign template's cost cannot be told by its length
    length = 0
    for message in prompt.messages:
        length += _MESSAGE_COST + _message_length(message)
        if length > _LONG_TEXT:
            break
    return length


def _message_length(message: Message) -> int:
    texts = [message.role, message.name or "", message.reasoning or "", message.tool_call_id or ""]
    texts += [part for part in message.parts or () if isinstance(part, str)]
    texts += [text for call in message.tool_calls for text in (call.id, call.name, call.arguments)]
    return sum(map(len, texts))


def _check_prompt_logprobs(served: Served, request: Request, tokens: int) -> None:
    wanted, most = request.output.prompt_logprobs, served.scored_tokens
    if wanted is None:
        return
    if most == 0:
        text = "'prompt_logprobs' is not supported by this model: its encoder reads the prompt and does not predict it"
        raise unsupported("prompt_logprobs", text)
    most = min(_MOST_SCORES // (1 + wanted), tokens if most is None else most)
    if tokens > most:
        text = f"'prompt_logprobs' ({wanted}) is served for prompts of at most {most} tokens here, not {tokens}"
        raise invalid("prompt_logprobs", text)


def _tracker(
    served: Served, request: Request, prompt: Sequence[int], stops: Sequence[str], arrived: float
) -> OutputTracker:
    return (BestOfTracker if picks(request) else OutputTracker)(
        request,
        served.tokenizer,
        prompt_ids=prompt,
        eos_token_ids=served.info.eos_token_ids,
        context_length=served.info.context_length,
        template_stops=stops,
        arrived=arrived,
    )


def _check_ids(param: str, ids: Sequence[int], limit: int) -> None:
    """Refuse ids beyond the embedding table, which a tokenizer with added tokens can yield for any text."""
    if not ids:
        return
    for token_id in (min(ids), max(ids)):
        if not 0 <= token_id < limit:
            raise invalid(param, f"'{param}' holds token id {token_id}: this model knows 0 to {limit - 1}")


def _encode_inputs(
    served: Served, embedder: Embedder, inputs: Sequence[Text | Tokens], truncate: bool
) -> list[list[int]]:
    """The token ids of what is to be embedded."""
    return _checked_inputs(
        served, [embedder.encode(index, each, truncate=truncate) for index, each in enumerate(inputs)]
    )


def _encode_classified(
    served: Served, classifier: Classifier, inputs: Sequence[Text | TextPair], truncate: bool
) -> list[list[int]]:
    """The token ids of what is to be classified."""
    encoded = [classifier.encode_input(index, each, truncate=truncate) for index, each in enumerate(inputs)]
    return _checked_inputs(served, encoded)


def _checked_inputs(served: Served, encoded: list[list[int]]) -> list[list[int]]:
    for index, ids in enumerate(encoded):
        if not ids:
            raise invalid("inputs", f"'inputs[{index}]' must have at least 1 token, not 0")
        _check_ids("inputs", ids, served.token_limit)
    return encoded


def _check_resume(request: Request, limit: int) -> None:
    for choice, progress in request.resume.items():
        if not 0 <= choice < request.sampling.n:
            raise invalid("resume", f"'resume' names choice {choice}: must be below 'n' ({request.sampling.n})")
        _check_ids("resume", progress.token_ids, limit)


def _held(served: Served, request: Request, prompt_ids: Sequence[int], *, calls: bool) -> Request:
    """The request with the constraint that its output keeps to, given the prompt; `calls`: one on these."""
    chat, dialect = request.prompt, served.info.dialect
    if not calls:
        if request.constraint is None or served.grammars is None:
            return request
        return replace(request, constraint=served.grammars.after_reasoning(request.constraint, dialect, prompt_ids))
    if served.grammars is None or not isinstance(chat, Chat):
        raise unsupported("tool_choice", "'tool_choice' cannot be kept to: this model's tokenizer takes no grammars")
    return replace(request, constraint=served.grammars.of_calls(chat, dialect, prompt_ids))


def _make_matchers(grammars: Grammars, request: Request, constraint: Constraint) -> dict[int, Matcher]:
    matchers: dict[int, Matcher] = {}
    for choice in range(request.sampling.n):
        progress = request.resume.get(choice)
        if progress is not None and progress.finished:
            continue
        matcher = matchers[choice] = grammars.compile(constraint)
        if progress is not None and not matcher.replay(progress.token_ids):
            raise invalid("resume", f"'resume' of choice {choice} holds tokens that the constraint does not allow")
    return matchers
