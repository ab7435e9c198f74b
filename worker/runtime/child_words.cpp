#include "worker/runtime/child_words.h"

#include <filesystem>

namespace gq::worker {

std::string model_key(const wire::Model& model) { return model.version.empty() ? model.name : model.name + "@" + model.version; }

child::Frame run_frame(std::uint64_t id, const Job& job, const Gathered& gathered, const std::string& output_dir) {
  child::Frame frame{child::Type::run, id, {}};
  frame.add("kind", std::string_view(job.item.kind)).add("model", std::string_view(job.item.model.name.empty() ? "" : model_key(job.item.model)));
  frame.add("budget_mib", job.item.granted_mib).add("output_dir", std::string_view(output_dir));
  for (const auto& [key, value] : gathered.body.params) frame.add("param." + key, std::string_view(value));
  for (const wire::Part& part : gathered.body.parts) {
    if (const std::string path = gathered.path_of(part.name); !path.empty()) frame.add("file." + part.name, std::string_view(path));
    else frame.add_bytes("part." + part.name, part.bytes);
    if (!part.media.empty()) frame.add("part_media." + part.name, std::string_view(part.media));
  }
  return frame;
}

Result<Output> output_of(const child::Frame& done, const std::string& output_dir) {
  Output output;
  output.values = done.with_prefix("value.");
  const auto media = done.with_prefix("out_media.");
  const auto media_for = [&](const std::string& name) {
    const auto it = media.find(name);
    return it == media.end() ? media_of(name) : it->second;
  };
  for (auto& [name, bytes] : done.with_prefix("out.")) output.items.push_back({name, media_for(name), bytes, {}});
  for (auto& [name, path] : done.with_prefix("out_file.")) {
    std::error_code ec;
    const auto real = std::filesystem::canonical(path, ec);
    const auto root = std::filesystem::canonical(output_dir, ec);
    const std::string relative = real.lexically_relative(root).string();
    if (ec || !is_safe_path(relative)) return fail(Errc::bad_message, "the executor named a file outside its output folder: " + path.substr(0, 100));
    output.items.push_back({name, media_for(name), {}, real.string()});
  }
  return output;
}

session::Ending ending_of_failure(const Grant& grant, const child::Frame& frame) {
  session::Ending ending;
  ending.grant = grant;
  ending.code = Errc::job_failed;
  const std::string_view code = frame.text("code");
  parse_errc(code, ending.code);
  ending.what = std::string(frame.text("what").substr(0, 300));
  if (ending.what.empty()) ending.what = "the executor gave no reason";
  switch (ending.code) {
    case Errc::cancelled: ending.outcome = Outcome::cancelled; break;
    case Errc::bad_image:
    case Errc::bad_input:
    case Errc::bad_model:
    case Errc::bad_message:
    case Errc::unknown_kind:
    case Errc::over_limit:
    case Errc::too_large:
    case Errc::not_here:
    case Errc::checkpoint_corrupt: ending.outcome = Outcome::failed_final; break;
    default: ending.outcome = Outcome::failed; break;
  }
  if (frame.number("final") != 0 && ending.outcome == Outcome::failed) ending.outcome = Outcome::failed_final;
  return ending;
}

}  // namespace gq::worker
