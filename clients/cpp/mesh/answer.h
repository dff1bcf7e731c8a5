// What a request has produced so far, over all its attempts: what goes in are the events of one worker after the other,
// what comes out are those of a single, perfect one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mesh/v1/inference.pb.h"

namespace mesh {

using Event = v1::GenerateResponse;

class Answer {
 public:
  explicit Answer(v1::GenerateRequest request);

  // The request for the next attempt.
  v1::GenerateRequest next(uint32_t attempt);

  // Add an event; returns what of it is new, and throws Error (protocol_error, wrong_model) for one that cannot be.
  std::vector<Event> take(const Event& event);

  // If only the last event is missing, and nobody is there to send it, it is known all the same.
  std::vector<Event> finish_alone();

  // Tokens of credit that a delta counts.
  uint32_t credit_of(const v1::Delta& delta) const;

  const v1::GenerateRequest& request() const { return request_; }
  size_t choices() const { return choices_.size(); }
  bool done() const { return done_; }
  // A provider's text has no token ids: once some of it is out, no other worker can go on.
  bool pinned() const { return pinned_; }
  std::string fingerprint() const { return started_ ? started_->fingerprint() : ""; }

 private:
  struct Choice {
    std::vector<uint32_t> token_ids;
    bool finished = false;
    // Text that a choice releases at its end comes without tokens, and again from a worker that resumes: it waits.
    std::vector<Event> tail;
  };

  std::vector<Event> take_started(const Event& event);
  std::vector<Event> take_delta(const Event& event);
  std::vector<Event> take_end(const Event& event);
  std::vector<Event> take_finished(Event event);
  Choice& open(uint32_t index);
  bool complete() const;

  v1::GenerateRequest request_;
  std::optional<v1::Started> started_;
  std::vector<Choice> choices_;
  bool hidden_;  // more choices are generated than told
  bool begun_ = false;
  bool done_ = false;
  bool pinned_ = false;
};

}  // namespace mesh
