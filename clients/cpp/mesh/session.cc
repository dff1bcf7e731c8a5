#include "mesh/session.h"

namespace mesh {
namespace {

constexpr std::chrono::seconds kOpenLimit{5};
constexpr std::chrono::milliseconds kWorkersOwnWord{500};
constexpr double kDefaultHeartbeat = 2;  // seconds
constexpr int kLooks = 8;                // per heartbeat

// A little after its deadline, as the worker may tell by itself that it has passed.
std::optional<std::chrono::milliseconds> limit_of(const v1::GenerateRequest& request) {
  if (!request.has_deadline_ms()) return std::nullopt;
  return std::chrono::milliseconds(request.deadline_ms()) + kWorkersOwnWord;
}

Event as_event(const v1::StreamEvent& given) {
  Event event;
  switch (given.event_case()) {
    case v1::StreamEvent::kStarted:
      *event.mutable_started() = given.started();
      break;
    case v1::StreamEvent::kDelta:
      *event.mutable_delta() = given.delta();
      break;
    case v1::StreamEvent::kChoiceFinished:
      *event.mutable_choice_finished() = given.choice_finished();
      break;
    case v1::StreamEvent::kFinished:
      *event.mutable_finished() = given.finished();
      break;
    default:
      break;  // an event of a newer version
  }
  return event;
}

}  // namespace

PlainCall::PlainCall(v1::InferenceService::Stub& stub, const v1::GenerateRequest& request) {
  if (auto limit = limit_of(request)) context_.set_deadline(std::chrono::system_clock::now() + *limit);
  reader_ = stub.Generate(&context_, request);
}

PlainCall::~PlainCall() {
  if (over_) return;
  context_.TryCancel();
  Event dropped;
  while (reader_->Read(&dropped)) {
  }
  reader_->Finish();
}

Event PlainCall::next() {
  Event event;
  if (reader_->Read(&event)) return event;
  over_ = true;
  throw Error::from_call(reader_->Finish());
}

std::shared_ptr<Session> Session::open(v1::InferenceService::Stub& stub, const std::string& name,
                                       const std::string& worker_id, const std::string& incarnation) {
  std::shared_ptr<Session> session(new Session());
  session->call_ = stub.Session(&session->context_);
  v1::SessionRequest command;
  v1::SessionOpen* open = command.mutable_open();
  open->set_client(name);
  open->set_expected_worker_id(worker_id);
  open->set_expected_incarnation(incarnation);
  session->send(command);
  session->reader_ = std::thread([raw = session.get()] { raw->read(); });
  std::unique_lock<std::mutex> lock(session->mutex_);
  session->news_.wait_for(lock, kOpenLimit, [&] { return session->opened_ || session->lost_; });
  if (session->lost_) throw *session->lost_;
  if (!session->opened_) throw Error("worker_lost", "the session did not open in time");
  return session;
}

Session::~Session() {
  close();
  if (reader_.joinable()) reader_.join();
  if (watcher_.joinable()) watcher_.join();
}

std::unique_ptr<Stream> Session::start(const v1::GenerateRequest& request, uint32_t credit,
                                       std::function<bool()> leaves) {
  auto mailbox = std::make_shared<Mailbox>();
  v1::SessionRequest command;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    command.mutable_start()->set_stream_id(++last_id_);
    if (lost_) {
      mailbox->failure = lost_;
    } else {
      streams_[last_id_] = mailbox;
    }
  }
  uint64_t id = command.start().stream_id();
  *command.mutable_start()->mutable_request() = request;
  command.mutable_start()->set_credit(credit);
  send(command);
  return std::make_unique<Stream>(shared_from_this(), id, mailbox, std::move(leaves), limit_of(request));
}

bool Session::lost() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return lost_.has_value();
}

void Session::read() {
  v1::SessionResponse message;
  while (call_->Read(&message)) receive(message);
  grpc::Status status;
  {
    std::lock_guard<std::mutex> lock(sending_);
    finished_ = true;
    status = call_->Finish();
  }
  bool opened;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    opened = opened_;
  }
  // Before, it is why the session was refused; afterwards whatever it says, the session is lost.
  end(opened ? Error("worker_lost", "the session was lost: " + status.error_message()) : Error::from_call(status));
}

void Session::receive(const v1::SessionResponse& message) {
  std::lock_guard<std::mutex> lock(mutex_);
  heard_ = true;
  if (message.has_opened() && !opened_) {
    opened_ = true;
    double heartbeat = message.opened().heartbeat() > 0 ? message.opened().heartbeat() : kDefaultHeartbeat;
    watcher_ = std::thread([this, heartbeat] { watch(heartbeat); });
  }
  draining_ = message.draining();  // which may be called off
  for (const v1::StreamEvent& event : message.events()) deliver(event);
  news_.notify_all();
}

void Session::deliver(const v1::StreamEvent& event) {
  auto found = streams_.find(event.stream_id());
  if (found == streams_.end()) return;  // it was cancelled: this was under way
  if (event.has_failed()) {
    found->second->failure = Error::from_failure(event.failed());
  } else {
    found->second->events.push_back(as_event(event));
  }
  if (event.has_failed() || event.has_finished()) streams_.erase(found);
}

// Counts looks without news, and no time: a process that was held up does not make the worker silent.
void Session::watch(double heartbeat) {
  const auto pause = std::chrono::duration<double>(heartbeat / kLooks);
  std::unique_lock<std::mutex> lock(mutex_);
  for (int quiet = 0; quiet <= kLooks;) {
    auto until = std::chrono::steady_clock::now() + pause;
    while (!lost_ && std::chrono::steady_clock::now() < until) news_.wait_until(lock, until);
    if (lost_) return;
    quiet = heard_ ? 0 : quiet + 1;
    heard_ = false;
  }
  lock.unlock();
  end(Error("worker_lost", "the worker is silent"));
}

void Session::end(const Error& error) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (lost_) return;
  lost_ = error;
  for (auto& [id, mailbox] : streams_) mailbox->failure = error;
  streams_.clear();
  context_.TryCancel();
  news_.notify_all();
}

void Session::send(const v1::SessionRequest& command) {
  std::lock_guard<std::mutex> lock(sending_);
  if (!finished_) call_->Write(command);  // what goes wrong is told by Read
}

void Session::forget(uint64_t id) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (streams_.erase(id) == 0) return;
  }
  v1::SessionRequest command;
  command.mutable_cancel()->set_stream_id(id);
  send(command);
}

Stream::Stream(std::shared_ptr<Session> session, uint64_t id, std::shared_ptr<Session::Mailbox> mailbox,
               std::function<bool()> leaves, std::optional<std::chrono::milliseconds> limit)
    : session_(std::move(session)), id_(id), mailbox_(std::move(mailbox)), leaves_(std::move(leaves)) {
  if (limit) until_ = std::chrono::steady_clock::now() + *limit;
}

Stream::~Stream() { session_->forget(id_); }

Event Stream::next() {
  std::unique_lock<std::mutex> lock(session_->mutex_);
  for (;;) {
    if (!mailbox_->events.empty()) {
      Event event = std::move(mailbox_->events.front());
      mailbox_->events.pop_front();
      return event;
    }
    if (mailbox_->failure) throw *mailbox_->failure;
    if (session_->draining_) {
      lock.unlock();
      bool leaves = leaves_();
      lock.lock();
      if (leaves) throw Error("draining", "the worker drains");
      if (!mailbox_->events.empty() || mailbox_->failure) continue;
    }
    if (!until_) {
      session_->news_.wait(lock);
    } else if (std::chrono::steady_clock::now() >= *until_) {
      throw Error("deadline_exceeded", "the deadline has passed");
    } else {
      session_->news_.wait_until(lock, *until_);
    }
  }
}

void Stream::grant(uint32_t tokens) {
  v1::SessionRequest command;
  command.mutable_credit()->set_stream_id(id_);
  command.mutable_credit()->set_tokens(tokens);
  session_->send(command);
}

}  // namespace mesh
