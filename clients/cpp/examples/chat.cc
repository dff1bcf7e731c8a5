// Prints an answer: build/chat "Tell me a story about a fox."     beside `make up`
#include <cstdlib>
#include <iostream>

#include "mesh/client.h"

int main(int count, char** words) {
  const char* etcd = std::getenv("MESH_ETCD");
  mesh::Options options;
  options.etcd = etcd ? etcd : "127.0.0.1:12379";  // the registry of `mesh up`
  mesh::v1::GenerateRequest request;
  request.set_model("mesh-demo");
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->add_parts()->set_text(count > 1 ? words[1] : "Tell me a story about a fox.");
  try {
    mesh::Client client(options);
    auto generation = client.generate(request);
    while (auto event = generation->next()) std::cout << event->delta().text() << std::flush;
    std::cout << std::endl;
  } catch (const mesh::Error& error) {
    std::cerr << error.code << ": " << error.what() << std::endl;
    return 1;
  }
}
