#include "mesh/workers.h"

#include <google/protobuf/util/json_util.h>
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <future>
#include <random>

#include "mesh/etcd/v1/etcd.pb.h"

namespace mesh {
namespace {

constexpr char kPrefix[] = "/mesh/v1/workers/";
constexpr char kEnd[] = "/mesh/v1/workers0";  // the character after "/"
constexpr std::chrono::seconds kListingLimit{5};
constexpr std::chrono::seconds kFresh{1};             // for so long a listing counts
constexpr std::chrono::milliseconds kKnownLimit{500};  // for so long it is waited for where workers are known
constexpr std::chrono::seconds kGrace{30};            // for so long a worker that is not listed is a last choice
constexpr std::chrono::milliseconds kFirstPause{100}, kLongestPause{2000};
constexpr int kMaxMessageBytes = 64 << 20;

std::shared_ptr<grpc::Channel> dial(std::string address, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                    grpc::ChannelArguments arguments = {}) {
  size_t scheme = address.find("://");
  if (scheme != std::string::npos) address = address.substr(scheme + 3);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // the limit of one attempt to connect
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

// Keepalive notices a peer that was stopped, which the end of a connection does not tell. Not for etcd, which ends
// connections that ping so often.
grpc::ChannelArguments keepalive() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 2000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return arguments;
}

double draw() {
  static thread_local std::mt19937 generator{std::random_device{}()};
  return std::uniform_real_distribution<double>(0, 1e-6)(generator);
}

}  // namespace

Worker::Worker(v1::WorkerRecord record, std::shared_ptr<grpc::ChannelCredentials> credentials)
    : stub_(v1::InferenceService::NewStub(dial(record.address(), credentials, keepalive()))),
      record_(std::move(record)),
      pause_(kFirstPause) {}

bool Worker::update(const v1::WorkerRecord& record) {
  std::lock_guard<std::mutex> lock(mutex_);
  bool same = record.incarnation() == record_.incarnation();
  if (same) record_ = record;
  return same;
}

bool Worker::serves(const std::string& model, const std::string& fingerprint) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (record_.worker_id().empty()) return true;  // only its address is known
  for (const v1::ServedModel& served : record_.models()) {
    if (served.name() != model) continue;
    if (fingerprint.empty()) return true;
    const auto& can = served.capabilities();
    return served.fingerprint() == fingerprint &&
           std::find(can.begin(), can.end(), v1::CAPABILITY_RESUME) != can.end();
  }
  return false;
}

bool Worker::ready() const {
  std::lock_guard<std::mutex> lock(mutex_);
  bool draining = record_.state() == v1::WORKER_STATE_DRAINING || (session_ && session_->draining());
  return !draining && Clock::now() >= rests_until_;
}

double Worker::busy() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return double(live_) / (record_.slots() + 1);
}

void Worker::add(int generations) {
  std::lock_guard<std::mutex> lock(mutex_);
  live_ += generations;
}

void Worker::rest(double seconds) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto asked = std::chrono::milliseconds(int64_t(seconds * 1000));
  rests_until_ = Clock::now() + std::max(pause_, asked);
  pause_ = std::min(kLongestPause, pause_ * 2);
}

void Worker::went_well() {
  std::lock_guard<std::mutex> lock(mutex_);
  pause_ = kFirstPause;
}

Clock::duration Worker::vanished(bool now) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!now) {
    vanished_at_.reset();
    return {};
  }
  if (!vanished_at_) vanished_at_ = Clock::now();
  return Clock::now() - *vanished_at_;
}

bool Worker::listed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return !vanished_at_;
}

std::vector<std::string> Worker::models() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::string> names;
  for (const v1::ServedModel& served : record_.models()) names.push_back(served.name());
  return names;
}

std::unique_ptr<Attempt> Worker::start(const v1::GenerateRequest& request, bool plain_call, uint32_t credit,
                                       std::function<bool()> leaves) {
  if (plain_call) return std::make_unique<PlainCall>(*stub_, request);
  return session()->start(request, credit, std::move(leaves));
}

std::shared_ptr<Session> Worker::session() {
  std::lock_guard<std::mutex> one_at_a_time(opening_);
  std::string id, incarnation;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (session_ && !session_->lost()) return session_;
    id = record_.worker_id();
    incarnation = record_.incarnation();
  }
  std::shared_ptr<Session> opened = Session::open(*stub_, "cpp", id, incarnation);
  std::lock_guard<std::mutex> lock(mutex_);
  session_ = opened;
  return opened;
}

Workers::Workers(const std::string& etcd, const std::vector<std::string>& addresses,
                 std::shared_ptr<grpc::ChannelCredentials> credentials,
                 std::shared_ptr<grpc::ChannelCredentials> etcd_credentials)
    : credentials_(std::move(credentials)) {
  for (const std::string& address : addresses) {
    v1::WorkerRecord record;
    record.set_address(address);
    known_[address] = std::make_shared<Worker>(record, credentials_);
  }
  if (!etcd.empty()) etcd_ = dial(etcd, etcd_credentials);
}

Workers::~Workers() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (call_) call_->TryCancel();
  }
  if (asking_.joinable()) asking_.join();
}

void Workers::refresh() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!etcd_ || (listed_at_ && Clock::now() - *listed_at_ < kFresh)) return;
  if (!call_) {
    if (asking_.joinable()) asking_.join();  // its listing has ended, and so does it
    call_ = std::make_unique<grpc::ClientContext>();
    call_->set_deadline(std::chrono::system_clock::now() + kListingLimit);
    asking_ = std::thread([this] { ask(); });
  }
  Clock::duration patience = kKnownLimit;
  if (known_.empty()) {
    patience = 2 * kListingLimit;  // it ends before
  } else if (failure_) {
    patience = {};
  }
  asked_.wait_for(lock, patience, [this] { return !call_; });
  if (known_.empty() && failure_) throw *failure_;
}

void Workers::ask() {
  std::vector<v1::WorkerRecord> records;
  std::optional<Error> failure;
  try {
    records = list();
  } catch (const Error& error) {
    failure = error;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  failure_ = failure;
  if (!failure) take(records);
  call_.reset();
  asked_.notify_all();
}

void Workers::take(const std::vector<v1::WorkerRecord>& records) {
  listed_at_ = Clock::now();
  std::set<std::string> listed;
  for (const v1::WorkerRecord& record : records) {
    const std::string& id = record.worker_id();
    listed.insert(id);
    if (!known_.count(id) || !known_[id]->update(record)) known_[id] = std::make_shared<Worker>(record, credentials_);
  }
  for (auto item = known_.begin(); item != known_.end();) {
    bool gone = item->second->vanished(!listed.count(item->first)) > kGrace && item->second->busy() == 0;
    item = gone ? known_.erase(item) : std::next(item);
  }
}

std::shared_ptr<Worker> Workers::choose(const std::string& model, const std::string& fingerprint,
                                        const WorkerSet& avoid, const WorkerSet& never) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<Worker> best;
  double least = 0;
  for (const auto& [id, worker] : known_) {
    if (never.count(worker) || !worker->serves(model, fingerprint) || !worker->ready()) continue;
    double rank = worker->busy() + draw() + (avoid.count(worker) ? 1e6 : 0) + (worker->listed() ? 0 : 1e5);
    if (!best || rank < least) {
      best = worker;
      least = rank;
    }
  }
  return best;
}

bool Workers::any_serves(const std::string& model, const WorkerSet& never) {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::any_of(known_.begin(), known_.end(), [&](const auto& item) {
    return item.second->serves(model, "") && !never.count(item.second);
  });
}

std::vector<std::string> Workers::models() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::set<std::string> names;
  for (const auto& [id, worker] : known_) {
    for (const std::string& name : worker->models()) names.insert(name);
  }
  return {names.begin(), names.end()};
}

std::vector<v1::WorkerRecord> Workers::list() {
  etcd::v1::RangeRequest request;
  etcd::v1::RangeResponse response;
  request.set_key(kPrefix);
  request.set_range_end(kEnd);
  grpc::TemplatedGenericStub<etcd::v1::RangeRequest, etcd::v1::RangeResponse> stub(etcd_);
  std::promise<grpc::Status> done;
  stub.UnaryCall(call_.get(), "/etcdserverpb.KV/Range", grpc::StubOptions(), &request, &response,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  grpc::Status status = done.get_future().get();
  if (!status.ok()) throw Error("no_worker", "etcd does not answer: " + status.error_message());
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  std::vector<v1::WorkerRecord> records;
  for (const etcd::v1::KeyValue& item : response.kvs()) {
    v1::WorkerRecord record;
    if (google::protobuf::util::JsonStringToMessage(item.value(), &record, options).ok()) records.push_back(record);
  }
  return records;
}

}  // namespace mesh
