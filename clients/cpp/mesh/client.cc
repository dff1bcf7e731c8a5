#include "mesh/client.h"

#include <algorithm>
#include <cstdio>
#include <random>
#include <thread>

namespace mesh {
namespace {

// A name for the logs, and a seed, so that each worker draws the same numbers.
v1::GenerateRequest prepared(v1::GenerateRequest request) {
  std::random_device device;
  std::uniform_int_distribution<uint64_t> any;
  if (request.request_id().empty()) {
    char name[33];
    std::snprintf(name, sizeof name, "%016llx%016llx", (unsigned long long)any(device), (unsigned long long)any(device));
    request.set_request_id(name);
  }
  if (!request.sampling().has_seed()) {
    request.mutable_sampling()->set_seed(int64_t(any(device) >> 1));
    request.mutable_sampling()->set_drawn_seed(true);
  }
  return request;
}

}  // namespace

Client::Client(Options options) : options_(std::move(options)) {
  if (options_.etcd.empty() == options_.workers.empty()) {
    throw Error("invalid_request", "give either 'etcd' or 'workers'", "etcd");
  }
  workers_ = std::make_shared<Workers>(options_.etcd, options_.workers, options_.credentials, options_.etcd_credentials);
}

std::unique_ptr<Generation> Client::generate(const v1::GenerateRequest& request) {
  return std::make_unique<Generation>(workers_, options_, request);
}

std::vector<std::string> Client::models() {
  workers_->refresh();
  return workers_->models();
}

Generation::Generation(std::shared_ptr<Workers> workers, const Options& options, v1::GenerateRequest request)
    : workers_(std::move(workers)),
      options_(options),
      answer_(prepared(std::move(request))),
      until_(Clock::now() + options.patience) {
  const v1::GenerateRequest& asked = answer_.request();
  if (asked.has_resume()) throw Error("invalid_request", "'resume' is what this client sends by itself", "resume");
  if (asked.has_deadline_ms()) deadline_ = Clock::now() + std::chrono::milliseconds(asked.deadline_ms());
}

Generation::~Generation() { leave(); }

std::optional<Event> Generation::next() {
  while (events_.empty()) {
    if (answer_.done()) return std::nullopt;
    try {
      advance();
    } catch (const Error& error) {
      std::shared_ptr<Worker> worker = worker_;
      leave();
      events_ = answer_.finish_alone();
      if (events_.empty()) judge(error, worker);
    }
  }
  Event event = std::move(events_.back());
  events_.pop_back();
  return event;
}

// Takes the next event of the attempt that is under way, or of a new one.
void Generation::advance() {
  if (!attempt_) begin();
  Event event = attempt_->next();
  events_ = answer_.take(event);
  std::reverse(events_.begin(), events_.end());
  if (event.has_delta()) attempt_->grant(answer_.credit_of(event.delta()));
  if (!begun_) {
    begun_ = true;
    worker_->went_well();
    until_ = Clock::now() + options_.patience;
  }
}

void Generation::begin() {
  std::shared_ptr<Worker> found = find();
  worker_ = found;
  worker_->add(1);
  begun_ = false;
  uint32_t credit = std::max<uint32_t>(options_.credit, answer_.choices() * 16);
  auto leaves = [this, here = found.get()] {
    auto other = workers_->choose(answer_.request().model(), answer_.fingerprint(), avoid_, never_);
    return !answer_.pinned() && other && other.get() != here;
  };
  v1::GenerateRequest request = answer_.next(asked_++);
  if (request.has_deadline_ms()) {  // an attempt has what is left of the time
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
    request.set_deadline_ms(std::max<int64_t>(1, left));
  }
  attempt_ = worker_->start(request, options_.plain_calls, credit, leaves);
}

std::shared_ptr<Worker> Generation::find() {
  const std::string& model = answer_.request().model();
  for (;;) {
    if (Clock::now() > deadline_) throw Error("deadline_exceeded", "the deadline has passed");
    workers_->refresh();
    if (auto found = workers_->choose(model, answer_.fingerprint(), avoid_, never_)) return found;
    if (answer_.fingerprint().empty() && !workers_->any_serves(model, never_)) {
      throw last_.value_or(Error("model_not_found", "no worker serves the model '" + model + "'", "model"));
    }
    if (Clock::now() > until_) throw last_.value_or(Error("no_worker", "no worker took the request in time"));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

void Generation::leave() {
  attempt_.reset();
  if (worker_) worker_->add(-1);
  worker_.reset();
}

// Throws the error if no other attempt would help.
void Generation::judge(const Error& error, const std::shared_ptr<Worker>& worker) {
  if (!worker || answer_.pinned() || !error.retry_elsewhere()) throw error;
  last_ = error;
  if (error.code == "model_not_found" || error.code == "wrong_model") {
    never_.insert(worker);
    return;
  }
  avoid_.insert(worker);
  worker->rest(error.retry_after);
  if (!begun_ || error.code == "draining") return;
  until_ = Clock::now() + options_.patience;
  if (++failures_ >= options_.attempts) throw error;
}

}  // namespace mesh
