// Images into the network's square and boxes back, suppression, agreement, parameters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "worker/executors/detection.h"
#include "worker/executors/json.h"
#include "worker/executors/letterbox.h"

namespace gq::exec {
namespace {

TEST(Letterbox, an_image_of_the_networks_size_passes_unchanged) {
  image::Image image(64, 64, 3);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<std::uint8_t>(i * 7);
  const auto plan = plan_letterbox(64, 64, 64, 64);
  EXPECT_EQ(plan.scale, 1.0);
  std::vector<float> out(3 * 64 * 64);
  letterbox_cpu(image, plan, 3, out.data());
  for (int c = 0; c < 3; ++c)
    for (int y = 0; y < 64; ++y)
      for (int x = 0; x < 64; ++x)
        ASSERT_FLOAT_EQ(out[static_cast<std::size_t>((c * 64 + y) * 64 + x)], static_cast<float>(image.pixels[image.at(x, y) + static_cast<std::size_t>(c)]) / 255.0F);
}

TEST(Letterbox, the_odd_pixel_of_padding_goes_right_and_below) {
  // 641x480 into 640: r = 640/641, new 640x479, 161 rows to fill: 80 above (round(80.4)), 81 below
  const auto plan = plan_letterbox(641, 480, 640, 640);
  EXPECT_EQ(plan.scaled_width, 640);
  EXPECT_EQ(plan.scaled_height, 479);
  EXPECT_EQ(plan.left, 0);
  EXPECT_EQ(plan.top, 80);
}

TEST(Letterbox, the_rest_is_filled_with_114_and_gray_fills_all_channels) {
  const image::Image gray(100, 50, 1, 200);
  const auto plan = plan_letterbox(100, 50, 64, 64);
  EXPECT_EQ(plan.scaled_height, 32);
  EXPECT_EQ(plan.top, 16);
  std::vector<float> out(3 * 64 * 64);
  letterbox_cpu(gray, plan, 3, out.data());
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < 64; ++y) {
      const float want = y >= 16 && y < 48 ? 200.0F / 255.0F : 114.0F / 255.0F;
      ASSERT_FLOAT_EQ(out[static_cast<std::size_t>((c * 64 + y) * 64 + 20)], want) << "channel " << c << " row " << y;
    }
  }
}

TEST(Letterbox, scaling_reads_half_pixel_centres) {
  image::Image ramp(8, 8, 1);   // doubled: output 2k lies at k - 0.25, output 2k+1 at k + 0.25
  for (int y = 0; y < 8; ++y)
    for (int x = 0; x < 8; ++x) ramp.pixels[ramp.at(x, y)] = static_cast<std::uint8_t>(x * 20);
  std::vector<float> out(16 * 16);
  letterbox_cpu(ramp, plan_letterbox(8, 8, 16, 16), 1, out.data());
  EXPECT_NEAR(out[0] * 255, 0, 1e-3);          // clamped at the edge
  EXPECT_NEAR(out[5] * 255, 45, 1e-3);         // 2 + 0.25
  EXPECT_NEAR(out[6] * 255, 55, 1e-3);         // 3 - 0.25
  EXPECT_NEAR(out[15] * 255, 140, 1e-3);
}

TEST(Letterbox, boxes_come_back_to_where_they_were_whatever_the_size) {
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    const int w = 1 + static_cast<int>(random() % 3000), h = 1 + static_cast<int>(random() % 3000);
    const auto plan = plan_letterbox(w, h, 640, 640);
    ASSERT_GE(plan.left, 0);
    ASSERT_GE(plan.top, 0);
    ASSERT_LE(plan.left + plan.scaled_width, 640);
    ASSERT_LE(plan.top + plan.scaled_height, 640);
    const float x = static_cast<float>(random() % 1000) / 1000.0F * static_cast<float>(w);
    const auto there = static_cast<float>(static_cast<double>(x) * plan.scale + plan.left);
    ASSERT_NEAR(plan.back_x(there), x, 1e-3F * static_cast<float>(w) + 1e-2F);
    ASSERT_EQ(plan.back_x(-50), 0);
    ASSERT_EQ(plan.back_y(5000), static_cast<float>(h));
  }
}

/// The definition, slowly: a box stays unless a better one of its class that stays overlaps it by more than the threshold.
std::vector<Box> by_definition(std::vector<Box> boxes, double threshold) {
  std::stable_sort(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.score > b.score; });
  std::vector<bool> stays(boxes.size(), true);
  for (std::size_t i = 0; i < boxes.size(); ++i)
    for (std::size_t k = 0; k < i; ++k)
      if (stays[k] && boxes[k].label == boxes[i].label && static_cast<double>(iou(boxes[k], boxes[i])) > threshold) stays[i] = false;
  std::vector<Box> out;
  for (std::size_t i = 0; i < boxes.size(); ++i)
    if (stays[i]) out.push_back(boxes[i]);
  return out;
}

TEST(Suppression, equals_its_definition_on_random_boxes) {
  std::mt19937 random(11);
  const auto unit = [&] { return static_cast<float>(random() % 4096) / 4096.0F; };
  for (int round = 0; round < 200; ++round) {
    std::vector<Box> boxes;
    for (unsigned i = 0; i < 1 + random() % 120; ++i) {
      // whole pixels: the class offset then costs no precision, so that ties at the threshold come out the same
      const float x = std::floor(unit() * 100), y = std::floor(unit() * 100), w = 10 + std::floor(unit() * 30), h = 10 + std::floor(unit() * 30);
      boxes.push_back({x, y, x + w, y + h, unit(), static_cast<int>(random() % 3)});
    }
    ASSERT_EQ(suppress(boxes, 0.45, 300), by_definition(boxes, 0.45)) << "round " << round;
  }
}

TEST(Suppression, keeps_an_overlap_of_exactly_the_threshold_and_other_classes) {
  const Box a{0, 0, 10, 10, 0.9F, 0}, half{0, 0, 10, 5, 0.8F, 0}, other{0, 0, 10, 10, 0.7F, 1};
  EXPECT_EQ(suppress({a, half, other}, 0.5, 300), (std::vector<Box>{a, half, other}));
  EXPECT_EQ(suppress({a, half, other}, 0.49, 300), (std::vector<Box>{a, other}));
  EXPECT_EQ(suppress({a, half, other}, 0.5, 1), (std::vector<Box>{a}));
}

TEST(Agreement, a_label_is_found_once_and_only_by_its_class) {
  const std::vector<Box> labels{{0, 0, 10, 10, 0, 1}, {50, 50, 60, 60, 0, 2}};
  const auto got = compare({{0, 0, 10, 10, 0.9F, 1}, {1, 1, 10, 10, 0.8F, 1}, {50, 50, 60, 60, 0.7F, 3}}, labels, 0.33);
  EXPECT_EQ(got.matched, 1U);
  EXPECT_DOUBLE_EQ(got.precision(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(got.recall(), 0.5);
}

TEST(DetectParameters, a_typing_error_never_passes_silently) {
  EXPECT_EQ(parse_detect_params({})->conf, 0.35);
  const auto all = parse_detect_params({{"conf", "0.5"}, {"iou", "0.6"}, {"max_det", "10"}, {"imgsz", "320"}});
  ASSERT_TRUE(all);
  EXPECT_EQ(all->max_det, 10);
  for (const std::map<std::string, std::string>& wrong : std::vector<std::map<std::string, std::string>>{
           {{"conf", "1.5"}}, {{"conf", "nan"}}, {{"conf", ""}}, {{"iou", "-1"}}, {{"max_det", "0"}}, {{"max_det", "3.5"}}, {{"imgsz", "8"}}, {{"confidence", "0.5"}}}) {
    const auto got = parse_detect_params(wrong);
    ASSERT_FALSE(got) << wrong.begin()->first << "=" << wrong.begin()->second;
    EXPECT_EQ(got.failure().code, "BAD_INPUT");
  }
}

TEST(Json, reads_what_it_writes_and_refuses_the_rest) {
  const Json value(Json::Object{{"a", Json::Array{Json(1), Json(2.5), Json(true), Json()}}, {"text", "quote \" back \\ line \n"}});
  const auto again = parse_json(value.dump());
  ASSERT_TRUE(again);
  EXPECT_EQ(again->dump(), value.dump());
  EXPECT_EQ(*parse_json("\"\\u00e9\\ud83d\\ude00\"")->text(), "\xc3\xa9\xf0\x9f\x98\x80");
  for (const char* wrong : {"", "{", "[1,]", "{\"a\":}", "tru", "\"\\x\"", "1 2", "{\"a\" 1}", "\"\n\""}) EXPECT_FALSE(parse_json(wrong)) << wrong;
  EXPECT_FALSE(parse_json(std::string(100'000, '[')));   // deep nesting ends at a bound, not at the stack's end
}

TEST(Answer, is_json_with_the_stated_keys) {
  const auto json = parse_json(detections_json({{1.234F, 2, 30, 40, 0.87654F, 1}, {0, 0, 1, 1, 0.5F, 7}}, {"open", "short"}, 640, 480, "pcb@3", {1, 2, 3}));
  ASSERT_TRUE(json);
  const auto& boxes = *json->find("boxes")->array();
  ASSERT_EQ(boxes.size(), 2U);
  EXPECT_EQ(*boxes[0].find("name")->text(), "short");
  EXPECT_EQ(*boxes[1].find("name")->text(), "class 7");
  EXPECT_NEAR(*boxes[0].find("x1")->number(), 1.23, 1e-9);
  EXPECT_EQ(json->find("width")->number(), 640);
  EXPECT_EQ(*json->find("model")->text(), "pcb@3");
  EXPECT_EQ(json->find("ms")->find("infer")->number(), 3);
}

}  // namespace
}  // namespace gq::exec
