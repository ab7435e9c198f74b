// image_test.cpp - pictures come back as they went in, damaged ones are refused with a reason, boards follow their seed.
#include <gtest/gtest.h>

#include <set>

#include "common/image/board.h"
#include "common/image/image.h"

namespace gq::image {
namespace {

Image gradient(int w, int h, int c) {
  Image image(w, h, c);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<std::uint8_t>(i * 7 + i / 64);
  return image;
}

TEST(Image, a_png_comes_back_bit_for_bit_gray_and_colour) {
  for (const int channels : {1, 3}) {
    const Image sent = gradient(37, 21, channels);
    Image got;
    std::string error;
    ASSERT_TRUE(decode(encode_png(sent), got, error)) << error;
    EXPECT_EQ(got.channels, channels);
    EXPECT_EQ(got.pixels, sent.pixels);
  }
}

TEST(Image, a_gray_jpeg_stays_gray_and_keeps_its_size) {
  Image sent(64, 48, 1, 200), got;
  std::string error;
  ASSERT_TRUE(decode(encode_jpeg(sent), got, error)) << error;
  EXPECT_EQ(got.channels, 1);
  EXPECT_EQ(got.width, 64);
  EXPECT_EQ(got.height, 48);
  EXPECT_NEAR(got.pixels[100], 200, 2);
}

TEST(Image, every_truncation_of_a_jpeg_or_png_is_refused_with_a_reason) {
  const Image sent = gradient(120, 90, 3);
  for (const std::string& whole : {encode_png(sent), encode_jpeg(sent)}) {
    for (std::size_t cut = 0; cut + 16 < whole.size(); cut += 97) {
      Image got;
      std::string error;
      EXPECT_FALSE(decode(std::string_view(whole).substr(0, cut), got, error)) << "cut at " << cut;
      EXPECT_FALSE(error.empty());
    }
  }
}

TEST(Image, text_is_neither_jpeg_nor_png) {
  Image got;
  std::string error;
  EXPECT_FALSE(decode("hello, this is no picture", got, error));
  EXPECT_EQ(error, "neither JPEG nor PNG");
}

TEST(Image, a_header_that_claims_a_giant_is_refused_before_any_allocation) {
  std::string png = encode_png(Image(8, 8, 1));
  png[16] = '\x7F';   // width = 2^30 and more; the checksum is wrong too, but peek judges the header alone
  int w = 0, h = 0;
  std::string error;
  EXPECT_FALSE(peek(png, w, h, error));
  EXPECT_NE(error.find("over the limit"), std::string::npos) << error;
}

TEST(Board, the_same_seed_draws_the_same_board) {
  const Board a = draw_board(7), b = draw_board(7), c = draw_board(8);
  EXPECT_EQ(a.test.pixels, b.test.pixels);
  EXPECT_EQ(to_text(a.labels), to_text(b.labels));
  EXPECT_NE(a.test.pixels, c.test.pixels);
}

TEST(Board, labels_cover_exactly_what_differs_from_the_clean_board) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Board board = draw_board(seed, 640, 10);
    EXPECT_GE(board.labels.size(), 7U) << "seed " << seed;
    for (int y = 0; y < 640; ++y)
      for (int x = 0; x < 640; ++x) {
        const std::size_t i = board.test.at(x, y);
        if (board.test.pixels[i] == board.clean.pixels[i]) continue;
        bool covered = false;
        for (const Label& l : board.labels)
          covered = covered || (static_cast<float>(x) >= l.x1 && static_cast<float>(x) < l.x2 && static_cast<float>(y) >= l.y1 && static_cast<float>(y) < l.y2);
        ASSERT_TRUE(covered) << "seed " << seed << " at " << x << "," << y;
      }
  }
}

TEST(Board, all_six_defect_types_occur) {
  std::set<int> types;
  for (std::uint64_t seed = 1; seed <= 10; ++seed)
    for (const Label& l : draw_board(seed).labels) types.insert(l.type);
  EXPECT_EQ(types.size(), kDefectNames.size());
}

TEST(Labels, the_deeppcb_text_reads_back_and_nonsense_names_its_line) {
  std::vector<Label> labels;
  std::string error;
  ASSERT_TRUE(read_labels("464 279 510 339 1\n424,436,517,494,2\r\n\n", labels, error)) << error;
  ASSERT_EQ(labels.size(), 2U);
  EXPECT_EQ(labels[1].type, 1);
  EXPECT_EQ(to_text(labels), "464 279 510 339 1\n424 436 517 494 2\n");
  EXPECT_FALSE(read_labels("1 2 3 4 1\n1 2 3\n", labels, error));
  EXPECT_NE(error.find("line 2"), std::string::npos);
  EXPECT_FALSE(read_labels("1 2 3 4 9\n", labels, error));
}

TEST(Labels, iou_of_halves_is_a_third) {
  EXPECT_FLOAT_EQ(iou({0, 0, 2, 2, 0}, {1, 0, 3, 2, 0}), 1.0F / 3.0F);
  EXPECT_FLOAT_EQ(iou({0, 0, 2, 2, 0}, {5, 5, 6, 6, 0}), 0.0F);
}

}  // namespace
}  // namespace gq::image
