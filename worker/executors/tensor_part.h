// tensor_part.h - a tensor as a part of a job: media type application/x-gpuq-tensor.
//
//   "GQT1" | u8 dtype | u8 rank (0..8) | u16 reserved (0) | rank x u64 shape | data      little endian, row-major, nothing follows
//   dtype: 0 u8, 1 i8, 2 i16, 3 i32, 4 i64, 5 f16, 6 bf16, 7 f32, 8 f64, 9 bool (one byte, 0 or 1)
#pragma once

#include <string>
#include <string_view>

#include "worker/executors/failure.h"
#include "worker/executors/tensor_file.h"

namespace gq::exec {

inline constexpr std::string_view kTensorMedia = "application/x-gpuq-tensor";

std::string encode_tensor_part(const NamedTensor& tensor);            ///< the name is not part of it
Expected<NamedTensor> decode_tensor_part(std::string_view name, std::string_view bytes);

}  // namespace gq::exec
