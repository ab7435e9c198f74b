// client_conversation.cpp - libgpuq against a scripted broker in this process: real sockets, real codec, every answer ours.
#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "client/include/gpuq/client.h"
#include "client/lib/prepare.h"
#include "common/net/asio.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "common/net/zap.h"
#include "common/wire/codec.h"
#include "common/wire/job_body.h"
#include "tests/integration/client_broker.h"

namespace gq {
namespace {

TEST(ClientConversation, a_thousand_jobs_leave_in_four_messages_and_each_is_answered) {
  FakeBroker broker;
  gpuq::Client client(options_for(broker.endpoint()));
  const auto answers = client.submit(std::vector<gpuq::JobSpec>(1000, echo()));
  ASSERT_EQ(answers.size(), 1000U);
  for (const auto& answer : answers) EXPECT_TRUE(answer.ok);
  std::vector<std::size_t> sizes;
  for (const auto& submit : broker.all<wire::Submit>()) sizes.push_back(submit.items.size());
  EXPECT_EQ(sizes, (std::vector<std::size_t>{256, 256, 256, 232}));
}

TEST(ClientConversation, many_threads_share_one_client) {
  FakeBroker broker;
  gpuq::Client client(options_for(broker.endpoint()));
  std::atomic<int> ok{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) ok += client.submit(std::vector<gpuq::JobSpec>(3, echo())).size() == 3 ? 1 : 0;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ok, 400);
}

TEST(ClientConversation, a_submit_that_was_not_answered_goes_again_with_the_same_ids_on_a_new_link) {
  FakeBroker broker;
  broker.script([](FakeBroker&, const Heard& heard) { return std::holds_alternative<wire::Submit>(heard.message); });   // swallows it
  gpuq::Client client(options_for(broker.endpoint()));
  auto future = client.submit_async(std::vector<gpuq::JobSpec>(3, echo()));
  broker.wait_for<wire::Submit>([](const auto& s) { return s.size() == 1; });
  broker.close();
  broker.script(nullptr);
  broker.restart();
  const auto answers = within(future);
  const auto submits = broker.all<wire::Submit>();
  ASSERT_GE(submits.size(), 2U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(answers[i].ok);
    EXPECT_EQ(to_string(submits[0].items[i].id), answers[i].id);
    EXPECT_EQ(submits.back().items[i].id, submits[0].items[i].id);
    EXPECT_EQ(submits.back().items[i].digest, submits[0].items[i].digest);
  }
}

TEST(ClientConversation, a_waiting_job_is_watched_again_after_the_broker_was_killed_and_its_result_arrives) {
  FakeBroker broker;
  gpuq::Client client(options_for(broker.endpoint()));
  const std::string id = client.submit(echo()).id;
  auto result = client.result_async(id);
  broker.close();
  broker.script([](FakeBroker& b, const Heard& heard) {
    const auto* watch = std::get_if<wire::Watch>(&heard.message);
    if (watch == nullptr) return false;
    b.say(heard.peer, wire::Watched{}, heard.header.id);
    for (const JobId& job : watch->jobs) {
      std::string body;
      const auto notify = succeeded(job, body, "after the restart");
      b.say(heard.peer, notify, 0, body);
    }
    return true;
  });
  broker.restart();
  const auto got = within(result);
  EXPECT_EQ(got.id, id);
  EXPECT_TRUE(got.ok());
  ASSERT_NE(got.part("text"), nullptr);
  EXPECT_EQ(got.part("text")->bytes, "after the restart");
}

TEST(ClientConversation, a_new_term_on_the_same_link_means_everything_is_watched_again) {
  FakeBroker broker;
  gpuq::Client client(options_for(broker.endpoint()));
  const std::string id = client.submit(echo()).id;
  auto result = client.result_async(id);
  broker.set_term(2);
  const auto watches = broker.wait_for<wire::Watch>([](const auto& w) { return !w.empty(); });
  EXPECT_EQ(watches[0].jobs, std::vector<JobId>{*parse_job_id(id)});
}

TEST(ClientConversation, a_result_that_came_before_anybody_asked_is_kept_and_fetching_it_is_acknowledged) {
  FakeBroker broker;
  broker.script([](FakeBroker& b, const Heard& heard) {
    const auto* submit = std::get_if<wire::Submit>(&heard.message);
    if (submit == nullptr) return false;
    wire::Submitted answer;
    std::string body;
    wire::Notify all;
    for (const auto& item : submit->items) {
      answer.items.push_back({.id = item.id, .ok = true, .existing = false, .code = {}, .what = {}, .next = {}});
      all.items.push_back(succeeded(item.id, body).items[0]);
    }
    b.say(heard.peer, answer, heard.header.id);
    b.say(heard.peer, all, 0, body);
    return true;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  std::vector<std::string> ids;
  for (const auto& answer : client.submit(std::vector<gpuq::JobSpec>(600, echo()))) ids.push_back(answer.id);
  EXPECT_TRUE(client.wait(ids[0]).ok());
  std::mutex mutex;
  std::condition_variable come;
  std::size_t final = 0;
  client.on_final({ids.begin() + 1, ids.end()}, [&](gpuq::JobResult&& result) {
    const std::lock_guard lock(mutex);
    final += result.ok() ? 1U : 0U;
    come.notify_one();
  });
  std::unique_lock lock(mutex);
  EXPECT_TRUE(come.wait_for(lock, kPatience, [&] { return final == 599; })) << final;
  lock.unlock();
  const auto fetched = broker.wait_for<wire::Fetched>([](const auto& f) {
    std::size_t n = 0;
    for (const auto& one : f) n += one.jobs.size();
    return n == 600;
  });
  EXPECT_LE(fetched.size(), 10U) << "acknowledgements are batched";
  EXPECT_TRUE(broker.all<wire::Watch>().empty()) << "jobs submitted here are watched already";
}

TEST(ClientConversation, asking_for_results_before_the_submit_is_fine) {
  FakeBroker broker;
  std::atomic<bool> submitted{false};
  broker.script([&](FakeBroker& b, const Heard& heard) {   // knows no job until it is submitted, as a broker does
    const auto* watch = std::get_if<wire::Watch>(&heard.message);
    if (std::holds_alternative<wire::Submit>(heard.message)) submitted = true;
    if (watch == nullptr || submitted) return false;
    b.say(heard.peer, wire::Watched{watch->jobs}, heard.header.id);
    return true;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  gpuq::JobSpec spec = echo();
  spec.id = gpuq::make_job_id();
  std::promise<gpuq::JobResult> first;
  client.on_final({spec.id}, [&](gpuq::JobResult&& result) { first.set_value(std::move(result)); });
  ASSERT_TRUE(client.submit(spec).ok);
  const PeerId peer = broker.last_peer();
  broker.later([&broker, peer, id = *parse_job_id(spec.id)] {
    std::string body;
    const auto notify = succeeded(id, body);
    broker.say(peer, notify, 0, body);
  });
  auto future = first.get_future();
  EXPECT_TRUE(within(future).ok());
  EXPECT_TRUE(broker.all<wire::Watch>().empty()) << "the submit watches it; nobody needs to ask";
}

TEST(ClientConversation, an_unknown_job_is_not_found_and_a_refused_one_says_why) {
  FakeBroker broker;
  broker.script([](FakeBroker& b, const Heard& heard) {
    if (const auto* watch = std::get_if<wire::Watch>(&heard.message)) {
      b.say(heard.peer, wire::Watched{watch->jobs}, heard.header.id);
      return true;
    }
    if (const auto* submit = std::get_if<wire::Submit>(&heard.message)) {
      wire::Submitted answer;
      answer.items.push_back({.id = submit->items[0].id, .ok = false, .existing = false, .code = "NO_FIT", .what = "no device is that large", .next = "gpuq workers"});
      b.say(heard.peer, answer, heard.header.id);
      return true;
    }
    return false;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  EXPECT_EQ(code_of([&] { client.wait(gpuq::make_job_id()); }), "NOT_FOUND");
  try {
    client.submit(echo());
    ADD_FAILURE() << "accepted";
  } catch (const gpuq::Error& error) {
    EXPECT_EQ(error.code(), "NO_FIT");
    EXPECT_STREQ(error.what(), "no device is that large");
    EXPECT_EQ(error.next(), "gpuq workers");
    EXPECT_EQ(error.exit_code(), 1);
  }
}

TEST(ClientConversation, a_job_with_durability_none_that_a_new_broker_does_not_know_is_gone_and_not_unheard_of) {
  FakeBroker broker;
  broker.script([](FakeBroker& b, const Heard& heard) {
    const auto* watch = std::get_if<wire::Watch>(&heard.message);
    if (watch == nullptr) return false;
    b.say(heard.peer, wire::Watched{watch->jobs}, heard.header.id);
    return true;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  gpuq::JobSpec spec = echo();
  spec.durability = "none";
  const auto job = client.submit(spec);
  EXPECT_EQ(broker.all<wire::Submit>().at(0).items.at(0).durability, 1);
  broker.close();
  broker.restart();
  EXPECT_EQ(code_of([&] { client.wait(job.id); }), "UNAVAILABLE");
  spec.durability = "sometimes";
  EXPECT_EQ(code_of([&] { client.submit(spec); }), "USAGE");
}

TEST(ClientConversation, a_store_that_is_away_for_a_moment_is_waited_for) {
  FakeBroker broker;
  std::atomic<int> refusals{0};
  broker.script([&](FakeBroker& b, const Heard& heard) {
    if (!std::holds_alternative<wire::Submit>(heard.message) || refusals >= 2) return false;
    ++refusals;
    b.say(heard.peer, wire::Failure{"UNAVAILABLE", "redis is away", ""}, heard.header.id);
    return true;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  EXPECT_TRUE(client.submit(echo()).ok);
  EXPECT_EQ(refusals, 2);
}

/// What a broker's blob store does, with a first half that is there already.
struct BlobScript {
  std::mutex mutex;
  std::map<BlobDigest, std::string> partial, whole;
  int chunks = 0;
  std::string stored(const BlobDigest& blob) { const std::lock_guard lock(mutex); return whole[blob]; }
  int chunks_seen() { const std::lock_guard lock(mutex); return chunks; }
  bool operator()(FakeBroker& b, const Heard& heard) {
    const auto* put = std::get_if<wire::BlobPut>(&heard.message);
    if (put == nullptr) return false;
    const std::lock_guard lock(mutex);
    if (whole.contains(put->blob)) return b.say(heard.peer, wire::BlobPutReply{put->blob, put->total, true}, heard.header.id), true;
    std::string& have = partial[put->blob];
    if (!heard.body.empty()) ++chunks;
    if (put->offset == have.size()) have += heard.body;
    const bool complete = have.size() == put->total;
    if (complete) whole[put->blob] = have;
    b.say(heard.peer, wire::BlobPutReply{put->blob, have.size(), complete}, heard.header.id);
    return true;
  }
};

TEST(ClientConversation, a_large_part_is_uploaded_first_and_once_and_goes_on_where_it_stopped) {
  FakeBroker broker;
  auto store = std::make_shared<BlobScript>();
  std::string bytes;
  for (int i = 0; bytes.size() < 300'000; ++i) bytes += std::to_string(i);
  const BlobDigest digest = client::sha256(bytes);
  store->partial[digest] = bytes.substr(0, 200'000);   // an earlier attempt came this far
  broker.script([store](FakeBroker& b, const Heard& heard) { return (*store)(b, heard); });
  gpuq::Client client(options_for(broker.endpoint()));
  gpuq::JobSpec spec = echo();
  spec.parts.emplace_back();
  spec.parts[0].name = "image";
  spec.parts[0].bytes = bytes;
  EXPECT_TRUE(client.submit(spec).ok);
  EXPECT_EQ(store->stored(digest), bytes);
  EXPECT_EQ(store->chunks_seen(), 25) << "the missing 100,000 bytes in chunks of 4096";
  const auto submits = broker.all<wire::Submit>();
  ASSERT_EQ(submits.size(), 1U);
  EXPECT_EQ(submits[0].items[0].blobs, std::vector<BlobDigest>{digest});
  EXPECT_LT(submits[0].items[0].payload_bytes, 1000U);
  EXPECT_TRUE(client.submit(spec).ok);
  EXPECT_EQ(store->chunks_seen(), 25) << "known content is not sent again";
}

TEST(ClientConversation, a_large_part_of_a_job_in_memory_is_handed_over_as_a_file_or_else_sent) {
  char folder[] = "/tmp/gpuq-near-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  FakeBroker broker;
  broker.set_near_folder(folder);
  auto store = std::make_shared<BlobScript>();
  auto taken = std::make_shared<std::vector<std::string>>();
  std::atomic<bool> takes{true};
  broker.script([&, store, taken](FakeBroker& b, const Heard& heard) {
    const auto* put = std::get_if<wire::BlobPut>(&heard.message);
    if (put == nullptr || put->near.empty()) return (*store)(b, heard);
    const std::string path = std::string(folder) + "/" + put->near;
    std::ifstream in(path, std::ios::binary);
    taken->emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    if (takes) b.say(heard.peer, wire::BlobPutReply{put->blob, put->total, true}, heard.header.id);
    else b.say(heard.peer, wire::Failure{"NOT_FOUND", "no such file", ""}, heard.header.id);
    if (takes) ::unlink(path.c_str());
    return true;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  ASSERT_TRUE(client.submit(echo()).ok);   // it has been welcomed: what is put before that goes by frames, for the folder is not known yet
  gpuq::JobSpec spec = echo();
  spec.durability = "none";
  spec.parts.emplace_back();
  spec.parts[0].name = "image";
  spec.parts[0].bytes = std::string(300'000, 'n');
  EXPECT_TRUE(client.submit(spec).ok);
  EXPECT_EQ(*taken, std::vector<std::string>{spec.parts[0].bytes});
  EXPECT_EQ(store->chunks_seen(), 0);
  const auto puts = broker.all<wire::BlobPut>();
  ASSERT_EQ(puts.size(), 1U);
  EXPECT_TRUE(puts[0].brief && is_brief_name(puts[0].blob));
  EXPECT_EQ(broker.all<wire::Submit>().at(1).items.at(0).blobs, std::vector<BlobDigest>{puts[0].blob});

  takes = false;   // it does not find the file: that folder is another one here
  EXPECT_TRUE(client.submit(spec).ok);
  EXPECT_EQ(taken->size(), 2U);
  EXPECT_EQ(store->chunks_seen(), 74) << "300,000 bytes in chunks of 4096";
  EXPECT_EQ(store->stored(broker.all<wire::Submit>().at(2).items.at(0).blobs.at(0)), spec.parts[0].bytes);
  EXPECT_TRUE(std::filesystem::is_empty(folder)) << "nothing is left behind";
  EXPECT_TRUE(client.submit(spec).ok);
  EXPECT_EQ(taken->size(), 2U) << "not tried again on this link";
  spec.durability.clear();
  EXPECT_TRUE(client.submit(spec).ok);
  EXPECT_EQ(broker.all<wire::Submit>().at(4).items.at(0).blobs.at(0), client::sha256(spec.parts[0].bytes)) << "what is kept has a digest";
  std::filesystem::remove_all(folder);
}

TEST(ClientConversation, an_upload_survives_a_dropped_connection) {
  FakeBroker broker;
  auto store = std::make_shared<BlobScript>();
  std::atomic<bool> deaf{false};
  broker.script([&, store](FakeBroker& b, const Heard& heard) {
    if (deaf && !std::holds_alternative<wire::ClientHello>(heard.message)) return true;
    if (std::holds_alternative<wire::BlobPut>(heard.message) && store->chunks_seen() >= 10) deaf = true;
    return deaf ? true : (*store)(b, heard);
  });
  gpuq::Client client(options_for(broker.endpoint()));
  const std::string bytes(200'000, 'z');
  auto digest = std::async(std::launch::async, [&] { return client.upload(bytes); });
  broker.wait_for<wire::BlobPut>([&](const auto&) { return deaf.load(); });
  broker.close();
  broker.script([store](FakeBroker& b, const Heard& heard) { return (*store)(b, heard); });
  broker.restart();
  EXPECT_EQ(within(digest), to_string(client::sha256(bytes)));
  EXPECT_EQ(store->stored(client::sha256(bytes)), bytes);
}

TEST(ClientConversation, a_large_result_is_fetched_in_pieces_and_its_content_is_verified) {
  FakeBroker broker;
  std::string bytes;
  for (int i = 0; bytes.size() < 50'000; ++i) bytes += std::to_string(i * 7);
  std::atomic<bool> lie{false};
  broker.script([&](FakeBroker& b, const Heard& heard) {
    const auto* get = std::get_if<wire::BlobGet>(&heard.message);
    if (get == nullptr) return false;
    std::string piece = bytes.substr(get->offset, get->bytes_max);
    if (lie) piece[0] = static_cast<char>(piece[0] ^ 1);
    b.say(heard.peer, wire::BlobGetReply{get->blob, bytes.size(), get->offset}, heard.header.id, piece);
    return true;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  const std::string digest = to_string(client::sha256(bytes));
  EXPECT_EQ(client.fetch_blob(digest), bytes);
  lie = true;
  EXPECT_EQ(code_of([&] { client.fetch_blob(digest); }), "INTERNAL");
}

TEST(ClientConversation, every_call_has_a_deadline) {
  FakeBroker broker;
  broker.script([](FakeBroker&, const Heard& heard) {
    return std::holds_alternative<wire::TopQuery>(heard.message) || std::holds_alternative<wire::Submit>(heard.message) || std::holds_alternative<wire::BlobPut>(heard.message);
  });
  gpuq::Client client(options_for(broker.endpoint(), 300ms));
  EXPECT_EQ(code_of([&] { client.top(); }), "TIMED_OUT");
  EXPECT_EQ(code_of([&] { client.submit(echo()); }), "TIMED_OUT");
  EXPECT_EQ(code_of([&] { client.upload("x"); }), "TIMED_OUT");
  EXPECT_EQ(code_of([&] { client.wait(gpuq::make_job_id(), 50ms); }), "TIMED_OUT");
}

TEST(ClientConversation, a_broker_that_is_not_there_is_unreachable_for_every_kind_of_call) {
  gpuq::Options options = options_for("tcp://127.0.0.1:1");
  options.connect_timeout = 200ms;
  gpuq::Client client(options);
  EXPECT_EQ(code_of([&] { client.top(); }), "UNREACHABLE");
  EXPECT_EQ(code_of([&] { client.submit(echo()); }), "UNREACHABLE");
  EXPECT_EQ(code_of([&] { client.wait(gpuq::make_job_id()); }), "UNREACHABLE");
  auto future = client.result_async(gpuq::make_job_id());
  EXPECT_EQ(code_of([&] { within(future); }), "UNREACHABLE");
}

TEST(ClientConversation, cancel_answers_in_words_and_logs_are_followed_to_their_end) {
  FakeBroker broker;
  broker.script([](FakeBroker& b, const Heard& heard) {
    const std::uint64_t id = heard.header.id;
    if (std::holds_alternative<wire::CancelJobs>(heard.message)) return b.say(heard.peer, wire::CancelReply{{0, 1, 2, 3}}, id), true;
    if (const auto* log = std::get_if<wire::LogQuery>(&heard.message)) {
      EXPECT_TRUE(log->follow);
      b.say(heard.peer, wire::LogReply{log->job, 0, 4, false}, id, "one\n");
      b.say(heard.peer, wire::LogReply{log->job, 4, 8, false}, id, "two\n");
      b.say(heard.peer, wire::LogReply{log->job, 8, 8, true}, id);
      return true;
    }
    return false;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  std::vector<std::string> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(gpuq::make_job_id());
  EXPECT_EQ(client.cancel(ids), (std::vector<std::string>{"cancelled", "asked", "already_final", "unknown"}));
  std::string text;
  client.follow_logs(ids[0], 0, [&](const gpuq::LogChunk& chunk) { text += chunk.bytes; return true; });
  EXPECT_EQ(text, "one\ntwo\n");
}

TEST(ClientConversation, following_goes_on_after_a_reconnect_where_it_was) {
  FakeBroker broker;
  broker.script([](FakeBroker& b, const Heard& heard) {
    const auto* log = std::get_if<wire::LogQuery>(&heard.message);
    if (log == nullptr) return false;
    if (log->offset == 0) b.say(heard.peer, wire::LogReply{log->job, 0, 4, false}, heard.header.id, "one\n");
    else b.say(heard.peer, wire::LogReply{log->job, log->offset, 8, true}, heard.header.id, "two\n");
    return true;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  std::string text;
  client.follow_logs(gpuq::make_job_id(), 0, [&](const gpuq::LogChunk& chunk) {
    text += chunk.bytes;
    if (chunk.bytes == "one\n") broker.restart();
    return true;
  });
  EXPECT_EQ(text, "one\ntwo\n");
}

TEST(ClientConversation, a_broker_of_another_protocol_is_said_at_once) {
  FakeBroker broker;
  broker.script([](FakeBroker& b, const Heard& heard) {
    if (!std::holds_alternative<wire::ClientHello>(heard.message)) return false;
    b.say(heard.peer, wire::Failure{"PROTOCOL", "this client speaks version 1, the broker 2..3", "update the client"}, heard.header.id);
    return true;
  });
  gpuq::Client client(options_for(broker.endpoint()));
  EXPECT_EQ(code_of([&] { client.top(); }), "PROTOCOL");
}

TEST(ClientConversation, a_blocking_call_inside_a_callback_is_refused_not_a_deadlock) {
  FakeBroker broker;
  gpuq::Client client(options_for(broker.endpoint()));
  const std::string id = client.submit(echo()).id;
  std::promise<std::string> code;
  client.on_final({id}, [&](gpuq::JobResult&&) { code.set_value(code_of([&] { client.top(); })); });
  const PeerId peer = broker.last_peer();
  broker.later([&broker, peer, id] {
    std::string body;
    const auto notify = succeeded(*parse_job_id(id), body);
    broker.say(peer, notify, 0, body);
  });
  auto future = code.get_future();
  EXPECT_EQ(within(future), "USAGE");
}

TEST(ClientConversation, closing_a_client_ends_what_waits_on_it) {
  FakeBroker broker;
  std::future<gpuq::JobResult> result;
  {
    gpuq::Client client(options_for(broker.endpoint()));
    result = client.result_async(client.submit(echo()).id);
  }
  EXPECT_EQ(code_of([&] { within(result); }), "CANCELLED");
}

TEST(ClientConversation, an_unknown_key_and_a_wrong_server_key_are_said_within_seconds) {
  char name[] = "/tmp/gpuq-client-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name;
  const auto server = net::keys_init(dir + "/keys");
  ASSERT_TRUE(server);
  net::Context context;
  asio::io_context io;
  net::Authority authority(context, io, dir + "/keys");
  ASSERT_TRUE(authority.start());
  ASSERT_TRUE(authority.self_test(*server));
  net::RouterPort port(context, io, {.received = [](const net::Speaker&, net::Packet&&) {}, .malformed = [](const net::Speaker&, Error) {}, .drained = {}, .link_lost = {}});
  net::RouterPort::Options bind;
  bind.endpoint = "tcp://127.0.0.1:*";
  bind.keys = &*server;
  const auto endpoint = port.bind(bind);
  ASSERT_TRUE(endpoint) << endpoint.error().what;
  std::thread thread([&] { io.run(); });

  const auto attempt = [&](const net::AccessFile& access) {
    const std::string file = dir + "/access.json";
    EXPECT_TRUE(net::write_access_file(file, access));
    gpuq::Options options;
    options.access_file = file;
    options.timeout = 15s;
    gpuq::Client client(options);
    return code_of([&] { client.top(); });
  };
  ASSERT_TRUE(net::keys_init(dir + "/other"));
  const auto access = net::keys_issue(dir + "/other", "stranger", net::Role::client, *endpoint, WallTime{1});
  ASSERT_TRUE(access) << access.error().what;
  net::AccessFile stranger = *access;
  stranger.server_key = server->public_key;
  EXPECT_EQ(attempt(stranger), "KEY_REFUSED");
  const std::string wrong_server = attempt(*access);   // the other server's public key
  EXPECT_TRUE(wrong_server == "KEY_REFUSED" || wrong_server == "UNREACHABLE") << wrong_server;

  asio::post(io, [&] { port.close(); io.stop(); });
  thread.join();
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace gq
