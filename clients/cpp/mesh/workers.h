// The workers, listed in the registry by etcd's own gRPC API (which the registry of `mesh up` serves too), or given by
// their addresses.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "mesh/session.h"
#include "mesh/v1/registry.pb.h"

namespace mesh {

using Clock = std::chrono::steady_clock;

// One start of one worker. Safe for use by several threads.
class Worker {
 public:
  Worker(v1::WorkerRecord record, std::shared_ptr<grpc::ChannelCredentials> credentials);

  // Take a newer record of the same start of the worker; false: it was started again.
  bool update(const v1::WorkerRecord& record);
  // Whether it has the model, and can go on with an answer of this fingerprint if one is given.
  bool serves(const std::string& model, const std::string& fingerprint) const;
  bool ready() const;
  // This client's generations there for each of its slots.
  double busy() const;
  void add(int generations);
  // Leave it alone for a while, longer each time, or for the time that it asked for.
  void rest(double seconds);
  void went_well();
  // Note whether the registry lacks it, which one that came back empty does, and return for how long it has.
  Clock::duration vanished(bool now);
  // Whether the registry listed it last.
  bool listed() const;
  std::vector<std::string> models() const;

  // Start a generation there. Throws Error if it cannot be reached.
  std::unique_ptr<Attempt> start(const v1::GenerateRequest& request, bool plain_call, uint32_t credit,
                                 std::function<bool()> leaves);

 private:
  std::shared_ptr<Session> session();

  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::mutex opening_;  // held while the session is being opened, so that there is one

  mutable std::mutex mutex_;  // guards what follows
  v1::WorkerRecord record_;
  int live_ = 0;
  Clock::time_point rests_until_;
  std::chrono::milliseconds pause_;
  std::shared_ptr<Session> session_;
  std::optional<Clock::time_point> vanished_at_;
};

using WorkerSet = std::set<std::shared_ptr<Worker>>;

// Safe for use by several threads.
class Workers {
 public:
  Workers(const std::string& etcd, const std::vector<std::string>& addresses,
          std::shared_ptr<grpc::ChannelCredentials> credentials,
          std::shared_ptr<grpc::ChannelCredentials> etcd_credentials);
  ~Workers();

  // Ask the registry, unless that was done just now. When it is away, what was known stays known, and one that does not
  // answer holds up nobody. Throws Error if nothing is known.
  void refresh();
  // The least busy worker that may be asked now, or null; one of `avoid`, or that is not listed any more, only if
  // there is no other.
  std::shared_ptr<Worker> choose(const std::string& model, const std::string& fingerprint, const WorkerSet& avoid,
                                 const WorkerSet& never);
  bool any_serves(const std::string& model, const WorkerSet& never);
  std::vector<std::string> models();

 private:
  void ask();
  void take(const std::vector<v1::WorkerRecord>& records);
  std::vector<v1::WorkerRecord> list();

  std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::shared_ptr<grpc::Channel> etcd_;
  std::thread asking_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable asked_;
  std::unique_ptr<grpc::ClientContext> call_;  // of the listing that is under way
  std::optional<Error> failure_;               // of the last listing
  std::map<std::string, std::shared_ptr<Worker>> known_;
  std::optional<Clock::time_point> listed_at_;
};

}  // namespace mesh
