// net_keys.cpp - who may enter, and what those who may not are told.
#include <sys/stat.h>

#include <fstream>

#include "tests/integration/net_fixture.h"

namespace gq::net {
namespace {

class Doors : public GuardedTest {
 protected:
  Doors() : router(context, io, recording()), endpoint(good(router.bind(options()))) {}
  Error told(Peer& peer) {
    if (!run_until(io, [&] { return !peer.refused.empty(); })) return {Errc::timed_out, "nobody said anything", ""};
    return peer.refused[0];
  }
  RouterPort router;
  std::string endpoint;
};

TEST_F(Doors, an_unknown_key_is_told_that_it_was_refused_and_what_to_do) {
  AccessFile access = issue("anna");
  good(keys_revoke(keys_folder, "anna"));
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  const Error error = told(peer);
  EXPECT_EQ(error.code, Errc::key_refused);
  EXPECT_NE(error.what.find("refused key anna"), std::string::npos) << error.what;
  EXPECT_NE(error.next.find("gpuq keys issue"), std::string::npos);
  EXPECT_EQ(peer.connected, 0);
  EXPECT_EQ(authority.refusals(), 1U);
  peer.port.send("let me in");
  EXPECT_EQ(peer.port.send("let me in"), SendOutcome::gone);
  EXPECT_TRUE(heard.empty());
}

TEST_F(Doors, a_key_issued_a_moment_ago_enters_on_a_new_socket) {
  AccessFile access = issue("anna");
  good(keys_revoke(keys_folder, "anna"));
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  told(peer);
  const AccessFile fresh = issue("anna");
  good(peer.connect(endpoint, &fresh));
  EXPECT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
}

TEST_F(Doors, a_wrong_server_key_is_called_that) {
  AccessFile access = issue("anna");
  access.server_key = issue("other").public_key;
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  const Error error = told(peer);
  EXPECT_EQ(error.code, Errc::key_refused);
  EXPECT_NE(error.what.find("wrong server key"), std::string::npos) << error.what;
}

TEST_F(Doors, a_peer_without_curve_is_told_that_one_side_does_not_encrypt) {
  Peer peer(context, io);
  good(peer.connect(endpoint, nullptr));
  const Error error = told(peer);
  EXPECT_EQ(error.code, Errc::protocol);
  EXPECT_NE(error.next.find("--access-file"), std::string::npos) << error.next;
}

TEST_F(Doors, a_peer_with_curve_at_an_insecure_broker_is_told_so_too) {
  RouterPort plain(context, io, recording());
  RouterPort::Options open;
  open.endpoint = "tcp://127.0.0.1:*";
  const std::string there = good(plain.bind(open));
  const AccessFile access = issue("anna");
  Peer peer(context, io);
  good(peer.connect(there, &access));
  const Error error = told(peer);
  EXPECT_EQ(error.code, Errc::protocol);
  EXPECT_NE(error.next.find("--insecure"), std::string::npos) << error.next;
}

TEST_F(Doors, an_expired_key_is_refused) {
  const AccessFile access = issue("brief", Role::client, WallTime{now().wall.ms + 1});
  ASSERT_TRUE(run_until(io, [&] { return now().wall.ms > now().wall.ms - 1 && !authority.allowed("brief"); }));
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  EXPECT_EQ(told(peer).code, Errc::key_refused);
}

TEST_F(Doors, revoking_a_key_is_reported_and_its_open_link_is_heard_no_more) {
  std::vector<std::string> revoked;
  authority.revoked = [&](const std::string& name) { revoked.push_back(name); };
  const AccessFile access = issue("anna");
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  peer.port.send("one");
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 1; }));
  EXPECT_TRUE(authority.allowed("anna"));
  good(keys_revoke(keys_folder, "anna"));
  ASSERT_TRUE(run_until(io, [&] { return !revoked.empty(); }));
  EXPECT_EQ(revoked, std::vector<std::string>{"anna"});
  EXPECT_FALSE(authority.allowed("anna"));
  peer.port.send("two");
  ASSERT_TRUE(run_until(io, [&] { return !malformed.empty(); }));
  EXPECT_EQ(malformed[0].second.code, Errc::key_refused);
  EXPECT_EQ(malformed[0].first.name, "anna");
  EXPECT_EQ(heard.size(), 1U);
}

TEST_F(Doors, a_key_made_anew_under_the_same_name_does_not_revive_the_old_link) {
  const AccessFile old = issue("anna");
  Peer peer(context, io);
  good(peer.connect(endpoint, &old));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  peer.port.send("one");
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 1; }));
  const auto before = authority.generation();
  good(keys_revoke(keys_folder, "anna"));
  issue("anna");
  ASSERT_TRUE(run_until(io, [&] { return authority.generation() != before; }));
  EXPECT_TRUE(authority.allowed("anna"));
  peer.port.send("two");
  ASSERT_TRUE(run_until(io, [&] { return !malformed.empty(); }));
  EXPECT_EQ(heard.size(), 1U);
}

TEST_F(Doors, the_refusal_test_is_repeated_and_is_no_refusal_of_anybody) {
  std::vector<Error> failures;
  authority.failed = [&](Error error) { failures.push_back(std::move(error)); };
  authority.repeat_every(std::chrono::milliseconds(1));
  ASSERT_TRUE(run_until(io, [&] { return authority.repeats() >= 3; }));
  EXPECT_TRUE(failures.empty());
  EXPECT_EQ(authority.refusals(), 0U);
  EXPECT_TRUE(context.guarded());
}

TEST_F(Doors, a_handler_that_no_longer_answers_is_found_and_no_further_port_is_bound) {
  std::vector<Error> failures;
  authority.failed = [&](Error error) { failures.push_back(std::move(error)); };
  authority.stop();
  authority.repeat_every(std::chrono::milliseconds(1));
  ASSERT_TRUE(run_until(io, [&] { return !failures.empty(); }));
  EXPECT_EQ(failures[0].code, Errc::zap_selftest);
  RouterPort next(context, io, {});
  EXPECT_EQ(next.bind(options()).error().code, Errc::zap_selftest);
}

class Unguarded : public NetTest {};

TEST_F(Unguarded, without_a_handler_the_self_test_fails_and_no_port_with_keys_is_bound) {
  const ServerKeys keys = good(keys_init(keys_folder));
  Authority absent(context, io, keys_folder);  // never started
  const auto tested = absent.self_test(keys);
  ASSERT_FALSE(tested.has_value());
  EXPECT_EQ(tested.error().code, Errc::zap_selftest);
  RouterPort router(context, io, {});
  RouterPort::Options options;
  options.endpoint = "tcp://127.0.0.1:*";
  options.keys = &keys;
  const auto bound = router.bind(options);
  ASSERT_FALSE(bound.has_value());
  EXPECT_EQ(bound.error().code, Errc::zap_selftest);
}

TEST_F(Unguarded, a_second_authority_in_one_context_cannot_start) {
  good(keys_init(keys_folder)).public_key;
  Authority first(context, io, keys_folder), second(context, io, keys_folder);
  good(first.start());
  const auto started = second.start();
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code, Errc::zap_selftest);
}

TEST_F(Unguarded, plaintext_is_for_loopback_only) {
  RouterPort router(context, io, {});
  RouterPort::Options options;
  options.endpoint = "tcp://0.0.0.0:*";
  const auto bound = router.bind(options);
  ASSERT_FALSE(bound.has_value());
  EXPECT_EQ(bound.error().code, Errc::refused);
  Peer peer(context, io);
  const auto connected = peer.connect("tcp://192.0.2.1:7700", nullptr);
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code, Errc::refused);
}

TEST_F(Unguarded, an_insecure_port_gives_every_peer_its_own_role_and_the_name_insecure) {
  std::vector<Speaker> speakers;
  RouterPort router(context, io, {.received = [&](const Speaker& s, Packet&&) { speakers.push_back(s); }, .malformed = {}, .drained = {}, .link_lost = {}});
  RouterPort::Options options;
  options.endpoint = "tcp://127.0.0.1:0";
  options.insecure_role = Role::worker;
  const std::string endpoint = good(router.bind(options));
  Peer peer(context, io);
  good(peer.connect(endpoint, nullptr));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  peer.port.send("hello");
  ASSERT_TRUE(run_until(io, [&] { return speakers.size() == 1; }));
  EXPECT_EQ(speakers[0].name, "insecure");
  EXPECT_EQ(speakers[0].role, Role::worker);
}

class KeyFiles : public NetTest {
 protected:
  void write(const std::string& path, const std::string& text, mode_t mode = 0600) {
    std::ofstream(path) << text;
    chmod(path.c_str(), mode);
  }
};

TEST_F(KeyFiles, are_made_once_kept_private_and_loaded_again) {
  const ServerKeys first = good(keys_init(keys_folder));
  EXPECT_EQ(good(keys_init(keys_folder)).public_key, first.public_key);
  struct stat about {};
  ASSERT_EQ(stat((keys_folder + "/server.json").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777U, 0600U);
  ASSERT_EQ(stat(keys_folder.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777U, 0700U);
}

TEST_F(KeyFiles, an_access_file_comes_back_as_it_was_written) {
  good(keys_init(keys_folder));
  const AccessFile issued = issue("gpu-7", Role::worker);
  const std::string path = folder + "/deep/er/worker.json";
  good(write_access_file(path, issued));
  struct stat about {};
  ASSERT_EQ(stat(path.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777U, 0600U);
  const AccessFile read = good(read_access_file(path));
  EXPECT_EQ(read.broker, issued.broker);
  EXPECT_EQ(read.server_key, issued.server_key);
  EXPECT_EQ(read.name, "gpu-7");
  EXPECT_EQ(read.role, Role::worker);
  EXPECT_EQ(read.public_key, issued.public_key);
  EXPECT_EQ(read.secret_key.reveal(), issued.secret_key.reveal());
}

TEST_F(KeyFiles, readable_by_others_are_refused_with_the_command_that_mends_it) {
  good(keys_init(keys_folder));
  const std::string path = folder + "/anna.json";
  good(write_access_file(path, issue("anna")));
  chmod(path.c_str(), 0640);
  const auto read = read_access_file(path);
  ASSERT_FALSE(read.has_value());
  EXPECT_EQ(read.error().code, Errc::refused);
  EXPECT_EQ(read.error().next, "chmod 600 " + path);
  chmod((keys_folder + "/server.json").c_str(), 0644);
  EXPECT_EQ(keys_load(keys_folder).error().code, Errc::refused);
}

TEST_F(KeyFiles, names_that_could_leave_the_folder_are_refused) {
  good(keys_init(keys_folder));
  for (const char* name : {"", "../x", ".hidden", "a/b", "a b", "-x", "ü", "01234567890123456789012345678901234567890123456789012345678901234"}) {
    const auto issued = keys_issue(keys_folder, name, Role::client, "tcp://127.0.0.1:1", now().wall);
    ASSERT_FALSE(issued.has_value()) << name;
    EXPECT_EQ(issued.error().code, Errc::usage) << name;
  }
  EXPECT_EQ(keys_revoke(keys_folder, "../server").error().code, Errc::usage);
  EXPECT_TRUE(keys_load(keys_folder).has_value());
}

TEST_F(KeyFiles, a_name_is_issued_once_until_it_is_revoked) {
  good(keys_init(keys_folder));
  issue("anna", Role::admin);
  EXPECT_EQ(keys_issue(keys_folder, "anna", Role::client, "tcp://127.0.0.1:1", now().wall).error().code, Errc::duplicate);
  const auto listed = good(keys_list(keys_folder));
  ASSERT_EQ(listed.size(), 1U);
  EXPECT_EQ(listed[0].name, "anna");
  EXPECT_EQ(listed[0].role, Role::admin);
  good(keys_revoke(keys_folder, "anna"));
  EXPECT_EQ(keys_revoke(keys_folder, "anna").error().code, Errc::not_found);
  EXPECT_TRUE(good(keys_list(keys_folder)).empty());
}

TEST_F(KeyFiles, the_manuals_published_keys_are_denied) {
  good(keys_init(keys_folder));
  write(keys_folder + "/allowed/manual.json",
        R"({"name":"manual","role":"admin","public":"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID","issued_ms":1,"expires_ms":0})");
  const auto listed = keys_list(keys_folder);
  ASSERT_FALSE(listed.has_value());
  EXPECT_NE(listed.error().what.find("ZeroMQ manual"), std::string::npos);
  Authority authority(context, io, keys_folder);
  good(authority.start());
  EXPECT_FALSE(authority.allowed("manual"));
}

TEST_F(KeyFiles, nonsense_is_refused_not_believed) {
  good(keys_init(keys_folder));
  const std::string path = folder + "/x.json";
  for (const char* text : {"", "{", "[]", "{\"role\":\"worker\"}", "{\"broker\":\"tcp://h:1\",\"server\":1,\"name\":\"x\",\"role\":\"king\"}"}) {
    write(path, text);
    const auto read = read_access_file(path);
    ASSERT_FALSE(read.has_value()) << text;
    EXPECT_EQ(read.error().code, Errc::refused) << text;
  }
  EXPECT_EQ(read_access_file(folder + "/absent.json").error().code, Errc::not_found);
}

}  // namespace
}  // namespace gq::net
