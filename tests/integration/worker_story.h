// worker_story.h - the real broker, the real gpuq-worker, and a scripted client.
#pragma once

#include <gtest/gtest.h>
#include <openssl/sha.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/net/keys.h"
#include "common/wire/job_body.h"
#include "tests/integration/broker_harness.h"

namespace gq::test {

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct WorkerStory : BrokerStory {
  Process program;
  std::vector<std::string> worker_options;
  std::vector<std::string> worker_environment;
  std::string devices = "cpu";

  std::vector<std::string> policy;   ///< more words for the broker
  void SetUp() override {
    std::vector<std::string> words{"--memory-store"};
    words.insert(words.end(), policy.begin(), policy.end());
    start(words);
  }
  void TearDown() override {
    if (HasFailure()) std::fprintf(stderr, "---- worker\n%s\n", program.log().c_str());
    if (program.running()) {
      program.signal(SIGINT);
      program.wait();
    }
    BrokerStory::TearDown();
  }

  [[nodiscard]] std::string scratch() const { return dir.path("scratch"); }
  void start_worker(const std::vector<std::string>& more = {}, const std::string& name = "bert") {
    const std::string file = dir.path(name + ".json");
    ASSERT_TRUE(net::write_access_file(file, access(name, net::Role::worker, broker.workers)).has_value());
    // `env -i`, so that what the worker inherits is what the test says.
    std::vector<std::string> argv;
    if (!worker_environment.empty()) {
      argv = {"/usr/bin/env", "-i"};
      if (const char* sanitizer = std::getenv("TSAN_OPTIONS")) argv.push_back(std::string("TSAN_OPTIONS=") + sanitizer);   // what it must not report
      argv.insert(argv.end(), worker_environment.begin(), worker_environment.end());
    }
    const std::vector<std::string> own{GPUQ_WORKER_PROGRAM, "--access-file", file, "--broker", broker.workers, "--scratch", scratch(), "--devices", devices, "--cpu-memory", "4GiB", "--ready-fd", "3"};
    argv.insert(argv.end(), own.begin(), own.end());
    argv.insert(argv.end(), more.begin(), more.end());
    program.start(argv, dir.path("worker.log"), {}, true);
    ASSERT_NE(program.ready_line(), "") << program.log();
  }

  static wire::SubmitItem job(const std::string& kind, JobId id = new_job_id()) {
    wire::SubmitItem item = echo_job(id);
    item.kind = kind;
    if (kind == "command" || kind.rfind("train.", 0) == 0) item.job_class = static_cast<std::uint8_t>(JobClass::training);
    return item;
  }
  JobId submit(wire::SubmitItem item, const wire::JobBody& body = {}) {
    const JobId id = item.id;
    client->submit({std::move(item)}, {wire::encode(body)});
    return id;
  }
  JobId command(std::vector<std::string> argv, wire::JobBody body = {}) {
    body.argv = std::move(argv);
    return submit(job("command"), body);
  }
  JobId shell(const std::string& script) { return command({"/bin/sh", "-c", script}); }

  struct Final {
    JobState state{};
    std::string code, what;
    std::map<std::string, std::string> values;
    std::map<std::string, std::string> parts;
    Attempt attempt{};
  };
  Final final_of(JobId id) {
    const wire::NotifyItem item = client->final_of(id);
    const std::string payload = client->last_body;
    Final out{static_cast<JobState>(item.state), item.code, item.what, {}, {}, item.attempt};
    if (payload.empty()) return out;
    auto body = wire::decode_result_body(std::as_bytes(std::span(payload)));
    EXPECT_TRUE(body.has_value());
    if (!body) return out;
    out.values = body->values;
    for (const wire::Part& part : body->parts) out.parts[part.name] = part.blob.empty() ? part.bytes : fetch_blob(part.blob);
    return out;
  }
  std::string fetch_blob(const BlobDigest& blob) {
    std::string bytes;
    for (;;) {
      const auto reply = client->ask<wire::BlobGetReply>(wire::BlobGet{blob, bytes.size(), 256U << 10U});
      bytes += client->last_body;
      if (bytes.size() >= reply.total || client->last_body.empty()) return bytes;
    }
  }
  BlobDigest put_blob(Peer& peer, const std::string& bytes) {
    BlobDigest digest;
    SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.bytes.data());
    auto reply = peer.ask<wire::BlobPutReply>(wire::BlobPut{digest, bytes.size(), 0});
    while (!reply.complete) reply = peer.ask<wire::BlobPutReply>(wire::BlobPut{digest, bytes.size(), reply.next}, std::string_view(bytes).substr(reply.next, 256U << 10U));
    return digest;
  }
  void push_model(const std::string& name, const std::string& bytes) {
    wire::ModelPush push;
    push.model.name = name;
    push.model.runtime = "torchscript";
    push.model.blob = put_blob(*admin, bytes);
    push.model.bytes = bytes.size();
    admin->ask<wire::ModelReply>(push);
  }
  /// Waits until the job runs here.
  void until_running(JobId id) {
    loop.until([&] { return client->status(id).state == static_cast<std::uint8_t>(JobState::running) && client->status(id).started_ms != 0; }, "the job to run");
  }
  void until_file(const std::string& path) {
    loop.until([&] { return std::filesystem::exists(path) && std::filesystem::file_size(path) > 0; }, path);
  }
};

inline bool alive(pid_t pid) {
  const std::string stat = slurp("/proc/" + std::to_string(pid) + "/stat");
  const auto close = stat.rfind(')');
  return close != std::string::npos && stat[close + 2] != 'Z' && stat[close + 2] != 'X';
}

}  // namespace gq::test
