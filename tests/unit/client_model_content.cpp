// client_model_content.cpp - what is pushed as a model and is none: said what it is, before it is uploaded; what may be one passes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "client/lib/model_content.h"

namespace gq::client {
namespace {

using namespace std::string_literals;

std::string number(std::uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xFFU);
  return out;
}

/// As PyTorch writes it: entries stored, zip64 records between the directory and its end.
std::string zip(const std::vector<std::string>& names, const std::string& content = "x"s, bool zip64 = true) {
  std::string out, directory;
  for (const std::string& name : names) {
    directory += "PK\1\2"s + std::string(24, '\0') + number(name.size(), 2) + std::string(12, '\0') + number(out.size(), 4) + name;
    out += "PK\3\4"s + std::string(22, '\0') + number(name.size(), 2) + number(0, 2) + name + content;
  }
  const std::uint64_t at = out.size();
  out += directory;
  if (zip64) out += "PK\6\6"s + std::string(52, '\0') + "PK\6\7"s + std::string(16, '\0');
  return out + "PK\5\6"s + std::string(4, '\0') + number(names.size(), 2) + number(names.size(), 2) + number(directory.size(), 4) + number(at, 4) + number(0, 2);
}

struct Content : ::testing::Test {
  std::string path(const std::string& name) const { return ::testing::TempDir() + "/model_content_" + std::to_string(::getpid()) + "_" + name; }
  std::optional<Error> judged(const std::string& bytes, const std::string& name = "best.pt") const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    auto out = not_servable(path(name));
    std::remove(path(name).c_str());
    return out;
  }
  void expect(const std::string& bytes, const std::string& what, const std::string& next, const std::string& name = "best.pt") const {
    const auto error = judged(bytes, name);
    ASSERT_TRUE(error) << what;
    EXPECT_EQ(error->code, Errc::bad_model);
    EXPECT_NE(error->what.find(name), std::string::npos) << error->what;
    EXPECT_NE(error->what.find(what), std::string::npos) << error->what;
    EXPECT_NE(error->next.find(next), std::string::npos) << error->next;
  }
};

TEST_F(Content, what_may_be_a_model_passes) {
  for (const bool zip64 : {true, false}) {
    EXPECT_FALSE(judged(zip({"net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"}, "x", zip64)));
    EXPECT_FALSE(judged(zip({"net/data.pkl", "net/data/0", "net/constants.pkl"}, std::string(300'000, '\0'), zip64))) << "the directory lies far behind the start";
  }
  EXPECT_FALSE(judged("\x30\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"gpuq-detector\"}}"s, "d.safetensors"));
  EXPECT_FALSE(judged("weights"));
  EXPECT_FALSE(judged("PK\3\4 cut off"s)) << "the worker says what is wrong with it";
  EXPECT_FALSE(not_servable(path("that is not there")));
}

TEST_F(Content, pickles_are_to_be_exported) {
  for (const bool zip64 : {true, false}) expect(zip({"archive/data.pkl", "archive/data/0", "archive/version"}, "x", zip64), "a Python pickle (torch.save)", "torch.jit.trace");
  expect("\x80\x02}q\x01."s, "a Python pickle", "torch.jit.trace");
  expect(zip({"best/data.pkl", "best/data/0"}, "\x80\x02" "cultralytics.nn.tasks\nDetectionModel"), "a Python pickle", "gpuq:ultralytics");
  expect("\x80\x04\x95 sklearn.pipeline"s, "a Python pickle", "gpuq:sklearn", "clf.pkl");
}

TEST_F(Content, other_formats_name_the_runtime_that_takes_them) {
  expect("\x08\x0a\x12\x07pytorch"s, "an ONNX model", "entry = \"gpuq:onnx\"", "net.onnx");
  expect("\x08\x07\x12\x07pytorch"s, "an ONNX model", "entry = \"gpuq:onnx\"", "net.bin");
  expect("\x89HDF\r\n\x1a\n\0\0"s, "an HDF5 file", "model.toml", "net.h5");
  expect(zip({"metadata.json", "config.json", "model.weights.h5"}), "a Keras model", "model.toml", "net.keras");
  expect("\x30\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\"}}"s, "weights without their network", "torch.jit.trace", "net.safetensors");
}

TEST_F(Content, what_is_no_model_at_all_is_named) {
  expect("", "empty", "TorchScript");
  expect("\xEF\xBB\xBF\n <!DOCTYPE HTML><title>404</title>"s, "a web page", "a download that failed");
  expect("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "a web page or XML", "a download that failed");
  expect("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer", "git lfs pull");
  expect("\x1f\x8b\x08\0"s, "a gzip archive", "unpack it");
  expect(zip({"model.toml", "m.py"}), "a zip archive", "the folder itself");
}

}  // namespace
}  // namespace gq::client
