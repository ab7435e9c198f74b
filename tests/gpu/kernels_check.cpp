// kernels_check.cpp - the CUDA kernels against the CPU references in letterbox.cpp and detection.cpp, on random input.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tests/gpu/checks.h"
#include "worker/executors/backend.h"
#include "worker/executors/detection.h"
#include "worker/executors/letterbox.h"

namespace gq::exec {

void check_letterbox_kernel(const Backend& cuda) {
  std::mt19937 random(3);
  double worst = 0;
  const int rounds = 60;
  for (int round = 0; round < rounds; ++round) {
    const int w = 1 + static_cast<int>(random() % 1500), h = 1 + static_cast<int>(random() % 1500), source_channels = round % 2 == 0 ? 1 : 3;
    const int channels = round % 3 == 0 ? 1 : 3, width = 32 * (1 + static_cast<int>(random() % 20)), height = 32 * (1 + static_cast<int>(random() % 20));
    image::Image image(w, h, source_channels);
    for (auto& p : image.pixels) p = static_cast<std::uint8_t>(random());
    const Letterbox plan = plan_letterbox(w, h, width, height);
    const torch::Tensor want = torch::empty({channels, height, width});
    letterbox_cpu(image, plan, channels, want.data_ptr<float>());
    const torch::Tensor pixels = torch::from_blob(image.pixels.data(), {static_cast<std::int64_t>(image.pixels.size())}, torch::kByte).to(torch::kCUDA);
    const torch::Tensor got = torch::empty({channels, height, width}, torch::TensorOptions().device(torch::kCUDA));
    const LetterboxJob job{pixels.data_ptr<std::uint8_t>(), got.data_ptr<float>(), w, h, source_channels, width, height, channels,
                           plan.scaled_width, plan.scaled_height, plan.left, plan.top};
    CHECK_THAT(cuda.cuda()->letterbox(&job) == 0, "round %d", round);
    worst = std::max(worst, (got.to(torch::kCPU) - want).abs().max().item<double>());
  }
  CHECK_THAT(worst < 1.0 / 255 / 16, "letterbox differs by %.6f", worst);
  std::printf("  letterbox kernel    %d random images, largest difference %.2e\n", rounds, worst);
}

void check_suppression_kernel(const Backend& cuda) {
  std::mt19937 random(5);
  const auto unit = [&] { return static_cast<float>(random() % 65536) / 65536.0F; };
  const int images = 8, rounds = 20;
  std::size_t kept = 0, total = 0;
  for (int round = 0; round < rounds; ++round) {
    const int count = 1 + static_cast<int>(random() % 1024);
    const torch::Tensor boxes = torch::zeros({images, count, 4});
    std::vector<std::vector<Box>> want(images);
    std::vector<std::int32_t> valid;
    std::vector<float> overlap;
    for (int i = 0; i < images; ++i) {
      const int n = static_cast<int>(random() % static_cast<unsigned>(count + 1));
      valid.push_back(n);
      overlap.push_back(0.3F + 0.4F * unit());
      std::vector<Box> all;
      for (int k = 0; k < n; ++k) {
        const float x = unit() * 300, y = unit() * 300;
        all.push_back({x, y, x + 10 + 40 * unit(), y + 10 + 40 * unit(), 1.0F - static_cast<float>(k) / 2048.0F, 0});
        std::copy(&all.back().x1, &all.back().x1 + 4, boxes.data_ptr<float>() + (static_cast<std::int64_t>(i) * count + k) * 4);
      }
      want[static_cast<std::size_t>(i)] = suppress(all, static_cast<double>(overlap.back()), 10'000);
    }
    const auto byte = torch::TensorOptions().dtype(torch::kByte).device(torch::kCUDA);
    const torch::Tensor on_card = boxes.to(torch::kCUDA), counts = torch::tensor(valid, torch::kInt).to(torch::kCUDA), limits = torch::tensor(overlap).to(torch::kCUDA);
    const torch::Tensor keep = torch::zeros({images, count}, byte);
    const torch::Tensor mask = torch::empty({images, count, (count + 63) / 64}, byte.dtype(torch::kLong));
    CHECK_THAT(cuda.cuda()->nms(on_card.data_ptr<float>(), counts.data_ptr<std::int32_t>(), reinterpret_cast<std::uint64_t*>(mask.data_ptr<std::int64_t>()),
                                keep.data_ptr<std::uint8_t>(), images, count, limits.data_ptr<float>()) == 0, "round %d", round);
    const torch::Tensor got = keep.to(torch::kCPU);
    for (int i = 0; i < images; ++i) {
      std::size_t n = 0;
      for (int k = 0; k < count; ++k) n += got[i][k].item<int>() != 0 ? 1U : 0U;
      CHECK_THAT(n == want[static_cast<std::size_t>(i)].size(), "round %d image %d: %zu kept, CPU keeps %zu", round, i, n, want[static_cast<std::size_t>(i)].size());
      kept += n;
      total += static_cast<std::size_t>(valid[static_cast<std::size_t>(i)]);
    }
  }
  std::printf("  suppression kernel  %d batches of %d images, %zu of %zu boxes kept, as on the CPU\n", rounds, images, kept, total);
}

}  // namespace gq::exec
