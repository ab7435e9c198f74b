// kernels.cu - letterbox + normalise, and suppression of duplicates, for a whole batch without a visit to the CPU.
// letterbox.cpp and detection.cpp hold the CPU references; tests/gpu compares.
#include "worker/executors/cuda/kernels.h"

#include "worker/executors/cuda/cuda_api.h"

namespace gq::exec {
namespace {

constexpr float kFill = 114.0F / 255.0F;
constexpr int kWord = 64;                // boxes per word of the suppression mask
constexpr int kBlocksMax = 16;           // 1024 boxes

__global__ void smoke(std::int32_t* out, std::int32_t value) { *out = value; }

__device__ float sample(const LetterboxJob& job, int x, int y, int channel) {
  const std::uint8_t* p = job.device_pixels + (static_cast<std::int64_t>(y) * job.source_width + x) * job.source_channels;
  if (job.source_channels == 1) return p[0];
  if (job.channels == 1) return 0.299F * p[0] + 0.587F * p[1] + 0.114F * p[2];
  return p[channel];
}

/// One thread per output pixel; all channels.
__global__ void letterbox(LetterboxJob job) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= job.width || y >= job.height) return;
  const int u = x - job.left, v = y - job.top;
  const std::int64_t plane = static_cast<std::int64_t>(job.width) * job.height;
  float* out = job.device_out + static_cast<std::int64_t>(y) * job.width + x;
  if (u < 0 || v < 0 || u >= job.scaled_width || v >= job.scaled_height) {
    for (int c = 0; c < job.channels; ++c) out[c * plane] = kFill;
    return;
  }
  // double, as on the CPU: at 8192 pixels a float centre is off by a visible fraction
  const double at_x = fmin(fmax((u + 0.5) * (static_cast<double>(job.source_width) / job.scaled_width) - 0.5, 0.0), job.source_width - 1.0);
  const double at_y = fmin(fmax((v + 0.5) * (static_cast<double>(job.source_height) / job.scaled_height) - 0.5, 0.0), job.source_height - 1.0);
  const int x0 = static_cast<int>(at_x), y0 = static_cast<int>(at_y);
  const int x1 = min(x0 + 1, job.source_width - 1), y1 = min(y0 + 1, job.source_height - 1);
  const float wx = static_cast<float>(at_x - x0), wy = static_cast<float>(at_y - y0);
  for (int c = 0; c < job.channels; ++c) {
    const float a = sample(job, x0, y0, c), b = sample(job, x1, y0, c), d = sample(job, x0, y1, c), e = sample(job, x1, y1, c);
    const float above = a + (b - a) * wx, below = d + (e - d) * wx;
    out[c * plane] = (above + (below - above) * wy) * (1.0F / 255.0F);
  }
}

__device__ float overlap(const float* a, const float* b) {
  const float w = fminf(a[2], b[2]) - fmaxf(a[0], b[0]), h = fminf(a[3], b[3]) - fmaxf(a[1], b[1]);
  if (w <= 0 || h <= 0) return 0;
  const float both = w * h;
  return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both);
}

/// mask[image][row][word]: which later boxes row would hide. Grid: (column word, row word, image), one thread per row.
__global__ void hides(const float* boxes, const std::int32_t* valid, const float* iou, std::uint64_t* mask, int count) {
  const int image = blockIdx.z, words = gridDim.x;
  const int row = blockIdx.y * kWord + threadIdx.x, first = blockIdx.x * kWord;
  const int n = valid[image];
  __shared__ float columns[kWord][4];
  const float* own = boxes + static_cast<std::int64_t>(image) * count * 4;
  if (first + static_cast<int>(threadIdx.x) < n)
    for (int k = 0; k < 4; ++k) columns[threadIdx.x][k] = own[(first + threadIdx.x) * 4 + k];
  __syncthreads();
  if (row >= n) return;
  std::uint64_t bits = 0;
  const float threshold = iou[image];
  for (int i = 0; i < kWord && first + i < n; ++i)
    if (first + i > row && overlap(own + row * 4, columns[i]) > threshold) bits |= std::uint64_t{1} << i;
  mask[(static_cast<std::int64_t>(image) * count + row) * words + blockIdx.x] = bits;
}

/// One warp per image walks the rows in order; lane w keeps word w of what is hidden so far.
__global__ void choose(const std::int32_t* valid, const std::uint64_t* mask, std::uint8_t* keep, int count, int words) {
  const int image = blockIdx.x, lane = threadIdx.x;
  const int n = valid[image];
  std::uint64_t hidden = 0;
  const std::uint64_t* rows = mask + static_cast<std::int64_t>(image) * count * words;
  for (int row = 0; row < n; ++row) {
    const std::uint64_t word = __shfl_sync(0xffffffffU, hidden, row / kWord);
    if ((word >> (row % kWord)) & 1U) continue;            // the same for the whole warp
    if (lane == 0) keep[static_cast<std::int64_t>(image) * count + row] = 1;
    if (lane < words) hidden |= rows[static_cast<std::int64_t>(row) * words + lane];
  }
}

}  // namespace

cudaError_t launch_smoke(std::int32_t* device_out, std::int32_t value, cudaStream_t stream) {
  smoke<<<1, 1, 0, stream>>>(device_out, value);
  return cudaGetLastError();
}

cudaError_t launch_letterbox(const LetterboxJob& job, cudaStream_t stream) {
  const dim3 block(32, 8);
  const dim3 grid((job.width + block.x - 1) / block.x, (job.height + block.y - 1) / block.y);
  letterbox<<<grid, block, 0, stream>>>(job);
  return cudaGetLastError();
}

cudaError_t launch_nms(const float* boxes, const std::int32_t* valid, const float* iou, std::uint64_t* mask, std::uint8_t* keep,
                       std::int32_t images, std::int32_t count, cudaStream_t stream) {
  const int words = (count + kWord - 1) / kWord;
  if (images < 1 || count < 1 || words > kBlocksMax) return cudaErrorInvalidValue;
  hides<<<dim3(words, words, images), kWord, 0, stream>>>(boxes, valid, iou, mask, count);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  choose<<<images, 32, 0, stream>>>(valid, mask, keep, count, words);
  return cudaGetLastError();
}

}  // namespace gq::exec
