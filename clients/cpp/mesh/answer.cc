#include "mesh/answer.h"

#include <algorithm>

#include "mesh/error.h"

namespace mesh {
namespace {

Error broken(const std::string& what) { return Error("protocol_error", "the worker " + what); }

}  // namespace

Answer::Answer(v1::GenerateRequest request) : request_(std::move(request)) {
  choices_.resize(std::max(1u, request_.sampling().n()));
  hidden_ = request_.sampling().best_of() > choices_.size();
}

v1::GenerateRequest Answer::next(uint32_t attempt) {
  begun_ = false;
  v1::GenerateRequest request = request_;
  request.set_attempt(attempt);
  for (Choice& choice : choices_) choice.tail.clear();
  if (!started_) return request;
  request.set_expected_fingerprint(started_->fingerprint());
  for (size_t index = 0; index < choices_.size(); ++index) {
    const Choice& choice = choices_[index];
    if (choice.token_ids.empty() && !choice.finished) continue;
    v1::ChoiceProgress* progress = request.mutable_resume()->add_choices();
    progress->set_choice(index);
    progress->mutable_token_ids()->Add(choice.token_ids.begin(), choice.token_ids.end());
    progress->set_finished(choice.finished);
  }
  return request;
}

std::vector<Event> Answer::take(const Event& event) {
  switch (event.event_case()) {
    case Event::kStarted:
      return take_started(event);
    case Event::kDelta:
      return take_delta(event);
    case Event::kChoiceFinished:
      return take_end(event);
    case Event::kFinished:
      return take_finished(event);
    default:
      return {};  // an event of a newer version
  }
}

std::vector<Event> Answer::finish_alone() {
  if (hidden_ || pinned_ || !started_ || !complete()) return {};
  Event event;
  event.mutable_finished();
  return take_finished(event);
}

uint32_t Answer::credit_of(const v1::Delta& delta) const {
  return started_ && started_->text_only() ? 1 : delta.token_ids_size();
}

std::vector<Event> Answer::take_started(const Event& event) {
  const v1::Started& started = event.started();
  if (begun_) throw broken("started a request twice");
  begun_ = true;
  if (!started_) {
    started_ = started;
    return {event};
  }
  if (started.fingerprint() != started_->fingerprint()) throw Error("wrong_model", "another model answers");
  if (started.prompt_tokens() != started_->prompt_tokens()) throw broken("resumed another prompt");
  return {};
}

std::vector<Event> Answer::take_delta(const Event& event) {
  const v1::Delta& delta = event.delta();
  Choice& choice = open(delta.choice());
  if (started_->text_only()) {
    pinned_ = true;
  } else if (delta.token_ids().empty()) {
    choice.tail.push_back(event);
    return {};
  } else if (delta.has_position() && delta.position() != choice.token_ids.size()) {
    throw broken("sent token " + std::to_string(delta.position()) + " where token " +
                 std::to_string(choice.token_ids.size()) + " was next");
  }
  choice.token_ids.insert(choice.token_ids.end(), delta.token_ids().begin(), delta.token_ids().end());
  return {event};
}

std::vector<Event> Answer::take_end(const Event& event) {
  const v1::ChoiceFinished& ended = event.choice_finished();
  Choice& choice = open(ended.choice());
  if (ended.has_tokens() && !started_->text_only() && ended.tokens() != choice.token_ids.size()) {
    throw broken("ended a choice with another number of tokens than have come");
  }
  choice.finished = true;
  std::vector<Event> events = std::move(choice.tail);
  events.push_back(event);
  return events;
}

// Usage as an undisturbed run reports it: a resumed one finds more of the prompt in the prefix cache.
std::vector<Event> Answer::take_finished(Event event) {
  if (!started_ || !complete()) throw broken("ended a request before its choices had ended");
  done_ = true;
  if (!started_->text_only() && !hidden_) {
    size_t tokens = 0;
    for (const Choice& choice : choices_) tokens += choice.token_ids.size();
    v1::Usage* usage = event.mutable_finished()->mutable_usage();
    usage->set_prompt_tokens(started_->prompt_tokens());
    usage->set_cached_tokens(started_->cached_tokens());
    usage->set_completion_tokens(tokens);
  }
  return {event};
}

Answer::Choice& Answer::open(uint32_t index) {
  if (!begun_) throw broken("sent output before the request had started");
  if (index >= choices_.size() || choices_[index].finished) {
    throw broken("sent output of choice " + std::to_string(index) + ", which has ended or never was");
  }
  return choices_[index];
}

bool Answer::complete() const {
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& choice) { return choice.finished; });
}

}  // namespace mesh
