// store_bench.cpp - a table of what Redis takes raw and what it takes through RedisStore. Starts a managed redis-server of its own.
//
//   store_bench [seconds per row]
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "broker/store/blobs.h"
#include "broker/store/managed_redis.h"
#include "common/net/asio.h"
#include "tests/bench/raw_redis.h"

using namespace gq;

namespace {

double since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void bench_image(asio::io_context& io, const store::RedisAddress& address) {
  store::RedisOptions options;
  options.address = address;
  options.name_space = "bench-image";
  const auto db = store::make_redis_store(io, options, {});
  std::uint64_t jobs = 0, number = 0;
  const auto body = std::make_shared<const store::Bytes>(200, 'b');
  std::function<void()> more = [&] {
    if (jobs == 200'000) return io.stop();
    std::vector<store::BatchItem> items;
    for (int i = 0; i < 1000; ++i) {
      core::JobRecord r;
      ++jobs;
      r.fixed.id = make_job_id(1'760'000'000'000 + jobs, jobs & 0xFFFFU, jobs * 0x9E3779B97F4A7C15ULL);
      r.fixed.seq = jobs;
      r.fixed.owner = "bench";
      r.fixed.body_bytes = 200;
      items.push_back({core::JobCreated{std::move(r), 1, {}}, body});
    }
    db->commit({++number, std::move(items)}, [&](const store::Committed&) { more(); });
  };
  db->open([&](const Result<store::Opened>&) { more(); });
  const auto start = std::chrono::steady_clock::now();
  io.run();
  io.restart();
  std::printf("submits, 1,000 per batch          %10.0f /s\n", 200'000 / since(start));
  const auto load = std::chrono::steady_clock::now();
  db->open([&](const Result<store::Opened>& opened) {
    std::printf("image of %zu jobs loaded in   %10.3f s\n", opened ? opened->image.jobs.size() : 0, since(load));
    io.stop();
  });
  io.run();
  io.restart();
  db->close();
}

void bench_blobs(asio::io_context& io, const std::filesystem::path& dir) {
  store::BlobOptions options;
  options.dir = dir;
  const auto blobs = store::make_blob_store(io, options);
  const std::size_t size = 512U << 20U, chunk = 256U << 10U;
  std::string data(size, '\0');
  for (std::size_t i = 0; i < size; i += 8) data[i] = static_cast<char>(i >> 9U), data[i + 3] = static_cast<char>(i >> 17U);
  const BlobDigest digest = store::digest_of(data);
  blobs->open([&](const Result<void>&) { io.stop(); });
  const auto work = asio::make_work_guard(io);
  io.run(), io.restart();
  auto start = std::chrono::steady_clock::now();
  std::size_t sent = 0, out = 0;
  const auto send_one = [&](auto& self) -> void {   // 8 chunks under way
    if (sent == size) return;
    const std::size_t at = sent;
    sent += chunk;
    blobs->append(digest, at, data.substr(at, chunk), [&, self](const Result<store::UploadState>&) mutable {
      if ((out += chunk) == size) return blobs->finish(digest, [&](const Result<void>&) { io.stop(); });
      self(self);
    });
  };
  blobs->begin_upload(digest, size, [&](const Result<store::UploadState>&) {
    for (int i = 0; i < 8; ++i) send_one(send_one);
  });
  io.run(), io.restart();
  std::printf("blob upload, hashed and fsynced   %10.0f MB/s%s\n", static_cast<double>(size) / 1e6 / since(start), blobs->contains(digest) ? "" : "  FAILED");
  start = std::chrono::steady_clock::now();
  std::size_t asked = 0, got = 0;
  const auto read_one = [&](auto& self) -> void {
    if (asked >= size) return;
    const std::size_t at = asked;
    asked += chunk;
    blobs->read(digest, at, chunk, [&, self](const Result<store::BlobChunk>& c) mutable {
      if ((got += c ? c->bytes.size() : size) >= size) return io.stop();
      self(self);
    });
  };
  for (int i = 0; i < 8; ++i) read_one(read_one);
  io.run();
  std::printf("blob read                         %10.0f MB/s\n", static_cast<double>(size) / 1e6 / since(start));
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 3;
  std::string dir = (std::filesystem::current_path() / "gpuq-bench-XXXXXX").string();   // on the real disk: /tmp may be memory
  if (::mkdtemp(dir.data()) == nullptr) return 1;
  asio::io_context io;
  const auto redis = store::make_managed_redis(io, {.data_dir = dir});
  Result<store::RedisAddress> address = fail(Errc::internal, "");
  redis->start([&](Result<store::RedisAddress> a) { address = std::move(a), io.stop(); });
  io.run(), io.restart();
  if (!address) return std::fprintf(stderr, "%s\n", address.error().what.c_str()), 1;

  std::printf("%-8s %14s %14s %9s %14s %14s %12s\n", "batch", "raw lives/s", "store lives/s", "of raw", "raw cpu us", "store cpu us", "cmds/batch");
  for (const std::size_t batch : {1U, 16U, 64U, 256U}) {
    const auto raw = bench::raw_redis_rate(address->socket_path, batch, seconds);
    const auto through = bench::store_rate(address->socket_path, batch, seconds);
    std::printf("%-8zu %14.0f %14.0f %8.0f%% %14.2f %14.2f %12.1f\n", batch, raw.lives_per_s, through.lives_per_s,
                100 * through.lives_per_s / raw.lives_per_s, raw.client_cpu_us_per_life, through.client_cpu_us_per_life, through.commands_per_batch);
  }
  bench_image(io, *address);
  bench_blobs(io, std::filesystem::path(dir) / "blobs");
  redis->stop();
  std::filesystem::remove_all(dir);
}
