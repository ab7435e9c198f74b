// jobs.cpp - wait, result, logs, cancel, retry.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "client/cli/cli.h"
#include "client/cli/pack.h"
#include "client/cli/results.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"

namespace gq::cli {

namespace {

using Json = nlohmann::ordered_json;

void print_results(Cli& cli, const std::vector<gpuq::JobResult>& results) {
  std::vector<Json> items;
  for (const gpuq::JobResult& result : results) items.push_back(to_json(result));
  print_json(cli.io.out, cli.format() == Format::jsonl, "results", items);
}

int run_wait(Cli& cli, const std::vector<std::string>& words, const std::string& patience) {
  const auto ids = resolve_jobs(cli, words);
  std::optional<std::chrono::milliseconds> span;
  if (!patience.empty()) {
    auto parsed = parse_span(patience);
    if (!parsed) throw gpuq::Error("USAGE", parsed.error().what, parsed.error().next);
    span = *parsed;
  }
  auto results = wait_for(cli.client(false), ids, span);
  if (!results) {
    cli.note("interrupted; the jobs go on");
    return kInterrupted;
  }
  if (cli.is_json()) print_results(cli, *results);
  else
    for (const gpuq::JobResult& r : *results) cli.io.out << r.id << "  " << r.state << "  " << age(r.ended_ms - r.submitted_ms) << '\n';
  return judge(cli, *results);
}

int run_result(Cli& cli, const std::string& word, const std::string& dir, const std::string& part_name) {
  const std::string id = resolve_job(cli, word);
  gpuq::Client& client = cli.client(true);
  const gpuq::JobResult result = client.result(id);
  if (!part_name.empty() && result.part(part_name) == nullptr) {
    std::string names;
    for (const gpuq::Part& part : result.parts) names += (names.empty() ? "" : ", ") + part.name;
    throw gpuq::Error("NOT_FOUND", "job " + id + " has no part '" + part_name + "'", names.empty() ? "its result has no parts" : "one of: " + names);
  }
  if (!dir.empty()) {
    const auto paths = save_parts(client, result, dir, part_name);
    if (cli.is_json()) print_results(cli, {result});
    else for (const std::string& path : paths) cli.io.out << path << '\n';
    if (paths.empty()) cli.note("the result of " + id + " has no parts");
    return judge(cli, {result});
  }
  if (!part_name.empty()) {
    cli.io.out << client.fetch(*result.part(part_name));   // its bytes and nothing else, for a pipe
    return judge(cli, {result});
  }
  if (cli.is_json()) print_results(cli, {result});
  else show_result(cli, result);
  return judge(cli, {result});
}

/// Of a Python model's processes: the broker keeps the newest of them, there is no end to wait for.
int run_model_logs(Cli& cli, const std::string& model, bool keep_on) {
  constexpr auto kLook = std::chrono::milliseconds(300);
  gpuq::Client& client = cli.client();
  const std::string name = model.substr(0, model.find('@'));
  const auto models = client.models();
  if (std::none_of(models.begin(), models.end(), [&](const gpuq::Model& m) { return m.name == name; })) throw gpuq::Error("UNKNOWN_MODEL", "model " + name + " is not registered", "gpuq model list");
  if (keep_on) watch_interrupts();
  for (std::uint64_t offset = 0;;) {
    const gpuq::LogChunk chunk = client.model_logs(model, offset);
    cli.io.out << chunk.bytes;
    cli.io.out.flush();
    const bool all = chunk.bytes.empty() || chunk.next <= offset;
    offset = chunk.next;
    if (!all) continue;
    if (!keep_on) return 0;
    if (interrupted()) return kInterrupted;
    std::this_thread::sleep_for(kLook);
  }
}

int run_logs(Cli& cli, const std::string& word, bool keep_on) {
  const std::string id = resolve_job(cli, word);
  gpuq::Client& client = cli.client();
  if (keep_on) {
    if (follow(cli, client, id) || !interrupted()) return 0;
    return kInterrupted;
  }
  for (std::uint64_t offset = 0;;) {
    const gpuq::LogChunk chunk = client.logs(id, offset);
    if (chunk.offset > offset && !chunk.bytes.empty()) cli.note("(" + std::to_string(chunk.offset - offset) + " bytes were dropped: the broker keeps the newest 256 KiB)");
    cli.io.out << chunk.bytes;
    if (chunk.bytes.empty() || chunk.next <= offset) break;
    offset = chunk.next;
  }
  return 0;
}

int run_cancel(Cli& cli, const std::vector<std::string>& words) {
  const auto ids = resolve_jobs(cli, words);
  const auto answers = cli.client().cancel(ids);
  bool unknown = false, refused = false;
  std::vector<Json> items;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::string& answer = answers[i];
    unknown = unknown || answer == "unknown";
    refused = refused || answer == "refused";
    if (cli.is_json()) items.push_back({{"id", ids[i]}, {"outcome", answer}});
    else
      cli.io.out << ids[i] << "  "
                 << (answer == "asked" ? "asked: it is running and ends in a moment; gpuq wait " + ids[i]
                     : answer == "already_final" ? "already final"
                     : answer == "refused"       ? "refused: another key submitted it; only that one or an admin's may cancel it" : answer) << '\n';
  }
  if (cli.is_json()) print_json(cli.io.out, cli.format() == Format::jsonl, "jobs", items);
  return refused ? 4 : unknown ? 3 : 0;
}

int run_retry(Cli& cli, const std::vector<std::string>& words, bool wait) {
  const auto ids = resolve_jobs(cli, words);
  gpuq::Client& client = cli.client(wait);
  std::vector<std::string> made;
  std::vector<Json> items;
  for (const std::string& id : ids) {
    const gpuq::Submitted answer = client.retry(id);
    made.push_back(answer.id);
    remember_last(answer.id);
    if (cli.is_json()) items.push_back({{"id", answer.id}, {"retry_of", id}});
    else if (!wait) cli.io.out << answer.id << '\n';
    cli.note("job " + answer.id + " is a new job like " + id);
  }
  if (!wait) {
    if (cli.is_json()) print_json(cli.io.out, cli.format() == Format::jsonl, "jobs", items);
    return 0;
  }
  auto results = wait_for(client, made, std::nullopt);
  if (!results) return kInterrupted;
  if (cli.is_json()) print_results(cli, *results);
  else for (const gpuq::JobResult& result : *results) show_result(cli, result);
  return judge(cli, *results);
}

}  // namespace

void add_job_commands(CLI::App& app, Cli& cli) {
  struct Arguments { std::vector<std::string> jobs; std::string job, model, timeout, dir, part; bool follow = false, wait = false; };
  const auto a = std::make_shared<Arguments>();
  const auto jobs = [&](CLI::App* c) { c->add_option("job", a->jobs, "ids, unique parts of ids, or last")->option_text("JOB...")->required(); };
  const auto job = [&](CLI::App* c) { c->add_option("job", a->job, "an id, a unique part of one, or last")->option_text("JOB")->required(); };

  CLI::App* wait = app.add_subcommand("wait", "wait until these jobs are final; exit 0 when all succeeded, 1 when not, 6 when out of time");
  jobs(wait);
  wait->add_option("--timeout", a->timeout, "stop waiting after this long; the jobs go on")->option_text("DURATION");
  wait->callback([&cli, a] { cli.action = [&cli, a] { return run_wait(cli, a->jobs, a->timeout); }; });

  CLI::App* result = app.add_subcommand("result", "the result of a final job");
  job(result);
  result->add_option("-d,--dir", a->dir, "write its parts (artefacts) as files below this folder")->option_text("DIR");
  result->add_option("--part", a->part, "only this part; without -d its bytes go to stdout")->option_text("NAME");
  result->callback([&cli, a] { cli.action = [&cli, a] { return run_result(cli, a->job, a->dir, a->part); }; });

  CLI::App* logs = app.add_subcommand("logs", "what a job has written; the broker keeps the newest 256 KiB");
  logs->add_option("job", a->job, "its id, a unique part of it, or last")->option_text("JOB");
  logs->add_option("--model", a->model, "instead: what the processes of this Python model print")->option_text("NAME[@VERSION]");
  logs->add_flag("-f,--follow", a->follow, "go on until it is final");
  logs->callback([&cli, a] {
    cli.action = [&cli, a] {
      if (a->model.empty() == a->job.empty()) throw gpuq::Error("USAGE", "logs of a job or of a model, one of them", "gpuq logs JOB   or   gpuq logs --model NAME");
      return a->model.empty() ? run_logs(cli, a->job, a->follow) : run_model_logs(cli, a->model, a->follow);
    };
  });

  CLI::App* cancel = app.add_subcommand("cancel", "cancel jobs, running or not");
  jobs(cancel);
  cancel->callback([&cli, a] { cli.action = [&cli, a] { return run_cancel(cli, a->jobs); }; });

  CLI::App* retry = app.add_subcommand("retry", "make a new job like a final one");
  jobs(retry);
  retry->add_flag("--wait,-w", a->wait, "wait until it is final and print the result");
  retry->callback([&cli, a] { cli.action = [&cli, a] { return run_retry(cli, a->jobs, a->wait); }; });
}

}  // namespace gq::cli
