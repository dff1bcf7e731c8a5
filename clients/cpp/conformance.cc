// Runs the cases of conformance.json and prints what it sees: see ../README.md.
// conformance FILE ETCD session|generate CASE...
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <fstream>
#include <iostream>
#include <limits>
#include <sstream>

#include "mesh/client.h"

using google::protobuf::Struct;
using google::protobuf::Value;

std::string json(const google::protobuf::Message& message) {
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) std::abort();
  return text;
}

template <typename Message>
Message parse(const std::string& text) {
  Message message;
  auto status = google::protobuf::util::JsonStringToMessage(text, &message);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return message;
}

std::string quoted(const std::string& text) {
  Value value;
  value.set_string_value(text);
  return json(value);
}

void tell(const std::string& name, const std::string& facts) {
  std::cout << "{\"case\": " << quoted(name) << ", " << facts << "}" << std::endl;
}

void run(mesh::Client& client, const std::string& name, const Struct& one) {
  auto request = parse<mesh::v1::GenerateRequest>(json(one.fields().at("request")));
  double limit = std::numeric_limits<double>::infinity(), tokens = 0;
  if (one.fields().count("cancel_after")) limit = one.fields().at("cancel_after").number_value();
  try {
    auto generation = client.generate(request);
    while (auto event = generation->next()) {
      tell(name, "\"event\": " + json(*event));
      tokens += event->delta().token_ids_size();
      if (tokens >= limit) return tell(name, "\"end\": \"cancelled\"");
    }
    tell(name, "\"end\": \"finished\"");
  } catch (const mesh::Error& error) {
    tell(name, "\"end\": \"error\", \"code\": " + quoted(error.code) + ", \"param\": " + quoted(error.param) +
                   ", \"message\": " + quoted(error.what()));
  }
}

int main(int count, char** words) {
  if (count < 4) return 2;
  std::stringstream text;
  text << std::ifstream(words[1]).rdbuf();
  auto all = parse<Struct>(text.str());
  for (int place = 4; place < count; ++place) {
    for (const Value& item : all.fields().at("cases").list_value().values()) {
      const Struct& one = item.struct_value();
      if (one.fields().at("name").string_value() != words[place]) continue;
      mesh::Options options;
      options.etcd = words[2];
      options.plain_calls = std::string(words[3]) == "generate";
      if (one.fields().count("credit")) options.credit = uint32_t(one.fields().at("credit").number_value());
      mesh::Client client(options);
      run(client, words[place], one);
    }
  }
}
