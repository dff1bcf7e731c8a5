// What a request has produced so far, over all its attempts: what goes in are the events of one worker after the other,
// what comes out are those of a single, perfect one.
import { MeshError } from "./errors.js";
import type { ChoiceFinished, Delta, Finished, GenerateRequest, GenerateResponse, Started, StreamEvent } from "./wire.js";

export type Event = GenerateResponse;

interface Choice {
  tokenIds: number[];
  finished: boolean;
  // Text that a choice releases at its end comes without tokens, and again from a worker that resumes: it waits.
  tail: Event[];
}

export class Answer {
  started: Started | null = null;
  done = false;
  readonly choices: Choice[];
  private begun = false;
  private pinnedByText = false;
  private readonly hidden: boolean;

  constructor(private readonly request: GenerateRequest) {
    const count = Math.max(1, request.sampling?.n ?? 1);
    this.choices = Array.from({ length: count }, () => ({ tokenIds: [], finished: false, tail: [] }));
    this.hidden = (request.sampling?.best_of ?? 0) > count;
  }

  // A provider's text has no token ids: once some of it is out, no other worker can go on.
  get pinned(): boolean {
    return this.pinnedByText;
  }

  get resumable(): boolean {
    return this.choices.some((choice) => choice.tokenIds.length > 0 || choice.finished);
  }

  // The request for the next attempt.
  next(attempt: number): GenerateRequest {
    this.begun = false;
    for (const choice of this.choices) choice.tail = [];
    if (!this.started) return { ...this.request, attempt };
    const choices = this.choices
      .map((choice, index) => ({ choice: index, token_ids: choice.tokenIds, finished: choice.finished }))
      .filter((choice) => choice.token_ids.length > 0 || choice.finished);
    return { ...this.request, attempt, expected_fingerprint: this.started.fingerprint, resume: { choices } };
  }

  // Add an event; returns what of it is new, and throws MeshError (protocol_error) for one that cannot be.
  take(event: StreamEvent | GenerateResponse): Event[] {
    if (event.started) return this.takeStarted(event.started);
    if (event.delta) return this.takeDelta(event.delta);
    if (event.choice_finished) return this.takeEnd(event.choice_finished);
    if (event.finished) return this.takeFinished(event.finished);
    return []; // an event of a newer version
  }

  // If only the last event is missing, and nobody is there to send it, it is known all the same.
  finishAlone(): Event[] {
    if (this.hidden || this.pinned || !this.started || !this.choices.every((choice) => choice.finished)) return [];
    return this.takeFinished({ usage: null, timing: null });
  }

  private takeStarted(started: Started): Event[] {
    if (this.begun) throw broken("started a request twice");
    this.begun = true;
    if (this.started) {
      if (started.prompt_tokens !== this.started.prompt_tokens) throw broken("resumed another prompt");
      if (started.fingerprint !== this.started.fingerprint) throw new MeshError("wrong_model", "another model answers");
      return [];
    }
    this.started = started;
    return [{ event: "started", started }];
  }

  private takeDelta(delta: Delta): Event[] {
    const choice = this.open(delta.choice);
    const event: Event = { event: "delta", delta };
    if (this.started?.text_only) {
      this.pinnedByText = true;
    } else if (delta.token_ids.length === 0) {
      choice.tail.push(event);
      return [];
    } else if (delta.position !== undefined && delta.position !== choice.tokenIds.length) {
      throw broken(`sent token ${delta.position} where token ${choice.tokenIds.length} was next`);
    }
    choice.tokenIds.push(...delta.token_ids);
    return [event];
  }

  private takeEnd(ended: ChoiceFinished): Event[] {
    const choice = this.open(ended.choice);
    if (ended.tokens !== undefined && !this.started?.text_only && ended.tokens !== choice.tokenIds.length) {
      throw broken(`ended a choice with ${ended.tokens} tokens, of which ${choice.tokenIds.length} have come`);
    }
    choice.finished = true;
    return [...choice.tail, { event: "choice_finished", choice_finished: ended }];
  }

  // Usage as an undisturbed run reports it: a resumed one finds more of the prompt in the prefix cache.
  private takeFinished(finished: Finished): Event[] {
    if (!this.started || !this.choices.every((choice) => choice.finished)) throw broken("ended before its choices");
    this.done = true;
    if (!this.started.text_only && !this.hidden) {
      const tokens = this.choices.reduce((sum, choice) => sum + choice.tokenIds.length, 0);
      const { prompt_tokens, cached_tokens } = this.started;
      finished = { ...finished, usage: { prompt_tokens, cached_tokens, completion_tokens: tokens } };
    }
    return [{ event: "finished", finished }];
  }

  private open(index: number): Choice {
    const choice = this.choices[index];
    if (!this.begun) throw broken("sent output before the request had started");
    if (!choice || choice.finished) throw broken(`sent output of choice ${index}, which has ended or never was`);
    return choice;
  }
}

function broken(what: string): MeshError {
  return new MeshError("protocol_error", `the worker ${what}`);
}
