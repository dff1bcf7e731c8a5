// A gRPC client of the workers with the exact failover of the mesh: a generation whose worker is lost, silent or
// draining goes on at another worker of the same fingerprint, at the same token.
//
//   mesh::Options options;
//   options.etcd = "127.0.0.1:12379";
//   mesh::Client client(options);
//   auto generation = client.generate(request);
//   while (auto event = generation->next()) std::cout << event->delta().text();
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mesh/answer.h"
#include "mesh/error.h"
#include "mesh/workers.h"

namespace mesh {

// Where the workers are, and when a request is given up. Give either `etcd` or `workers`.
struct Options {
  std::string etcd;                  // host:port of the registry, or of etcd
  std::vector<std::string> workers;  // host:port of each, where there is no registry that one could ask
  // How to speak to the workers and to etcd.
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  std::shared_ptr<grpc::ChannelCredentials> etcd_credentials = grpc::InsecureChannelCredentials();
  bool plain_calls = false;  // a Generate call for each generation, instead of one session per worker
  uint32_t credit = 256;     // tokens that a worker may send ahead of the reader
  std::chrono::milliseconds patience{30000};  // how long a request waits for a worker, at first and after each fault
  int attempts = 4;                           // workers that may break after they had begun a request
};

// One answer, over as many workers as it takes. For one thread; to destroy it cancels it, and the worker's rows end
// within a step.
class Generation {
 public:
  Generation(std::shared_ptr<Workers> workers, const Options& options, v1::GenerateRequest request);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // The next event: started, delta and choice_finished of each choice, finished; then nothing. Throws Error when no
  // worker can go on.
  std::optional<Event> next();

 private:
  void advance();
  void begin();
  std::shared_ptr<Worker> find();
  void leave();
  void judge(const Error& error, const std::shared_ptr<Worker>& worker);

  std::shared_ptr<Workers> workers_;
  Options options_;
  Answer answer_;
  std::vector<Event> events_;  // last first
  std::shared_ptr<Worker> worker_;
  std::unique_ptr<Attempt> attempt_;
  WorkerSet avoid_, never_;
  std::optional<Error> last_;
  Clock::time_point until_;
  Clock::time_point deadline_ = Clock::time_point::max();
  uint32_t asked_ = 0;
  int failures_ = 0;
  bool begun_ = false;
};

// Safe for use by several threads; its generations may outlive it.
class Client {
 public:
  explicit Client(Options options);

  std::unique_ptr<Generation> generate(const v1::GenerateRequest& request);
  // Names of the served models. Needs `etcd`.
  std::vector<std::string> models();

 private:
  Options options_;
  std::shared_ptr<Workers> workers_;
};

}  // namespace mesh
