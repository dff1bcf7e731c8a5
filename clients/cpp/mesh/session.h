// One generation on one worker, by a Generate call of its own or by a stream of a session.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "mesh/error.h"
#include "mesh/v1/inference.grpc.pb.h"

namespace mesh {

using Event = v1::GenerateResponse;

class Attempt {
 public:
  virtual ~Attempt() = default;  // ends it, whatever its state
  // The next event; waits for it. Throws Error when the worker refuses, is lost or drains.
  virtual Event next() = 0;
  // So many tokens were read: the worker may send as many more.
  virtual void grant(uint32_t tokens) = 0;
};

// A Generate call. It has no credits: HTTP/2 holds the worker up when nobody reads.
class PlainCall : public Attempt {
 public:
  PlainCall(v1::InferenceService::Stub& stub, const v1::GenerateRequest& request);
  ~PlainCall() override;
  Event next() override;
  void grant(uint32_t) override {}

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<Event>> reader_;
  bool over_ = false;
};

class Stream;

// One multiplexed stream with one worker: many generations, one message per engine step, credits per generation. A
// worker that is silent for longer than it promised to be is dead or frozen, and the session ends.
class Session : public std::enable_shared_from_this<Session> {
 public:
  // Open one; an id and incarnation, unless empty, are those that the worker must have. Throws Error.
  static std::shared_ptr<Session> open(v1::InferenceService::Stub& stub, const std::string& name,
                                       const std::string& worker_id, const std::string& incarnation);
  ~Session();

  // Start a generation of which the worker may send `credit` tokens before it is granted more. `leaves` is asked, in
  // the reader's thread, while the worker drains: whether another one could go on.
  std::unique_ptr<Stream> start(const v1::GenerateRequest& request, uint32_t credit, std::function<bool()> leaves);

  bool lost() const;
  bool draining() const { return draining_; }
  void close() { end(Error("worker_lost", "the session was closed")); }

 private:
  friend class Stream;
  // The events of one generation on their way to its reader.
  struct Mailbox {
    std::deque<Event> events;
    std::optional<Error> failure;
  };

  Session() = default;
  void read();
  void watch(double heartbeat);
  void receive(const v1::SessionResponse& message);
  void deliver(const v1::StreamEvent& event);
  void end(const Error& error);
  void send(const v1::SessionRequest& command);
  void forget(uint64_t id);

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> call_;
  std::thread reader_, watcher_;
  std::mutex sending_;
  bool finished_ = false;  // guarded by sending_

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable news_;
  std::map<uint64_t, std::shared_ptr<Mailbox>> streams_;
  std::optional<Error> lost_;
  uint64_t last_id_ = 0;
  bool opened_ = false;
  bool heard_ = false;
  std::atomic<bool> draining_{false};
};

// One generation of a session.
class Stream : public Attempt {
 public:
  // `limit`: for how long its events are waited for in all, if it has a deadline.
  Stream(std::shared_ptr<Session> session, uint64_t id, std::shared_ptr<Session::Mailbox> mailbox,
         std::function<bool()> leaves, std::optional<std::chrono::milliseconds> limit);
  ~Stream() override;
  Event next() override;
  void grant(uint32_t tokens) override;

 private:
  std::shared_ptr<Session> session_;
  uint64_t id_;
  std::shared_ptr<Session::Mailbox> mailbox_;
  std::function<bool()> leaves_;
  std::optional<std::chrono::steady_clock::time_point> until_;
};

}  // namespace mesh
