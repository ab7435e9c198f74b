// consumer.cpp - somebody else's program: it knows the installed header and library, nothing of our tree.
#include <gpuq/client.h>

#include <chrono>
#include <iostream>

int main() {
  gpuq::Options options;
  options.broker = "tcp://127.0.0.1:1";   // nobody listens there
  options.insecure = true;
  options.connect_timeout = std::chrono::milliseconds(300);
  gpuq::Client client(options);
  gpuq::JobSpec job;
  job.kind = "echo";
  const auto begin = std::chrono::steady_clock::now();
  try {
    client.submit(job);
  } catch (const gpuq::Error& error) {   // thrown in the library, caught here: its type information is exported
    const auto took = std::chrono::steady_clock::now() - begin;
    std::cout << error.code() << ": " << error.what() << '\n';
    return error.code() == "UNREACHABLE" && error.exit_code() == 5 && took < std::chrono::seconds(20) ? 0 : 1;
  }
  std::cout << "a submit to nobody was accepted\n";
  return 1;
}
