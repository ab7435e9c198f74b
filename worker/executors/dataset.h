// dataset.h - labelled images for train.detector, from a folder or an uncompressed tar of one. Two layouts, told apart by content:
//
//   DeepPCB   NAME_test.jpg|png with NAME.txt beside it or anywhere in the tree; NAME_temp.* (the clean template) is ignored.
//             Lines "x1 y1 x2 y2 type", type from 1, spaces or commas.
//   pairs     images/NAME.jpg|png with labels/NAME.txt; the same lines, or "class cx cy w h" as fractions with class from 0.
// classes.txt, one name per line, names the classes; six classes without it are DeepPCB's.
// Images are kept in memory with one channel: a detector of ours looks at luma.
#pragma once

#include <string>
#include <vector>

#include "common/image/image.h"
#include "worker/executors/detection.h"
#include "worker/executors/failure.h"

namespace gq::exec {

struct Sample {
  std::string name;
  image::Image image;        ///< one channel
  std::vector<Box> labels;   ///< label from 0; score unused
};
struct Dataset {
  std::vector<Sample> samples;        ///< by name, so that the order never depends on the file system
  std::vector<std::string> names;
};

/// `path` is a folder or a tar.
Expected<Dataset> read_dataset(const std::string& path);
Expected<std::vector<Box>> parse_labels(const std::string& text, int width, int height);

}  // namespace gq::exec
