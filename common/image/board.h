// board.h - small bare circuit boards with the six defect types of DeepPCB, drawn from a seed, with their labels.
//
// Looks: copper black (0) on white substrate (255), one channel, as DeepPCB's images. Tracks run in 8 directions between
// pads and vias. Each defect is drawn the way it arises in etching: open = a gap across a track; short = a bridge between two
// tracks; mousebite = a bite at a track's edge; spur = a thorn on its edge; copper = an island where none belongs;
// pinhole = a hole inside copper. Boxes are the defect's extent with a margin, like DeepPCB's (about 20-60 pixels wide).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/image/image.h"

namespace gq::image {

inline constexpr std::array<std::string_view, 6> kDefectNames{"open", "short", "mousebite", "spur", "copper", "pinhole"};

struct Label {
  float x1{}, y1{}, x2{}, y2{};   ///< pixels, x2/y2 exclusive
  int type{};                     ///< 0..5, index into kDefectNames (DeepPCB files count from 1)
};
struct Board {
  Image test;                     ///< with defects
  Image clean;                    ///< the template
  std::vector<Label> labels;
};

/// The same seed gives the same board, on every machine. size: width and height, >= 160. defects: how many to try for.
Board draw_board(std::uint64_t seed, int size = 640, int defects = 8);

/// DeepPCB layout: NAME_test.jpg|png, NAME_temp.jpg|png (optional), NAME.txt lines "x1 y1 x2 y2 type" (type 1..6, spaces or commas).
bool write_board(const std::string& folder, const std::string& name, const Board& board, std::string& error);
bool read_labels(const std::string& text, std::vector<Label>& labels, std::string& error);
std::string to_text(const std::vector<Label>& labels);

/// Intersection over union of two boxes.
float iou(const Label& a, const Label& b);

}  // namespace gq::image
