// board.cpp - boards from a seed. Integer and IEEE arithmetic only (no sin, no libm that differs), own generator: the same seed is
// the same board everywhere. As in DeepPCB, copper is black (0) on white substrate (255).
#include "common/image/board.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace gq::image {

namespace {

constexpr std::uint8_t kCopper = 0;
constexpr std::uint8_t kSubstrate = 255;
constexpr int kAttemptsPerDefect = 400;

class Random {   // splitmix64
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31U);
  }
  int between(int low, int high) {   // both inclusive
    return low + static_cast<int>(bits() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return between(1, 100) <= percent; }

 private:
  std::uint64_t state_;
};

struct Point { int x{}, y{}; };
constexpr Point kDirections[8] = {{1, 0}, {1, 1}, {0, 1}, {-1, 1}, {-1, 0}, {-1, -1}, {0, -1}, {1, -1}};

struct Segment { Point a, b; int width{}; int direction{}; };
struct Pad { Point center; int radius{}; int hole{}; };

struct Extent {
  int x1 = 1 << 20, y1 = 1 << 20, x2 = -1, y2 = -1;
  void add(int x, int y) {
    x1 = std::min(x1, x);
    y1 = std::min(y1, y);
    x2 = std::max(x2, x + 1);
    y2 = std::max(y2, y + 1);
  }
  [[nodiscard]] bool empty() const { return x2 < 0; }
};

class Artist {
 public:
  Artist(std::uint64_t seed, int size) : random_(seed), size_(size), canvas_(size, size, 1, kSubstrate) {}

  Board run(int defects) {
    draw_copper();
    Board board;
    board.clean = canvas_;
    for (int i = 0; i < defects; ++i) {
      const int type = i < 6 ? (first_type_ + i) % 6 : random_.between(0, 5);
      for (int attempt = 0; attempt < kAttemptsPerDefect; ++attempt)
        if (try_defect(type)) break;
    }
    board.test = std::move(canvas_);
    board.labels = std::move(labels_);
    return board;
  }

 private:
  // ---- pixels
  [[nodiscard]] bool inside(int x, int y) const { return x >= 0 && y >= 0 && x < size_ && y < size_; }
  [[nodiscard]] bool copper(int x, int y) const { return inside(x, y) && canvas_.pixels[canvas_.at(x, y)] == kCopper; }
  void set(int x, int y, std::uint8_t value, Extent* extent = nullptr) {
    if (!inside(x, y)) return;
    std::uint8_t& pixel = canvas_.pixels[canvas_.at(x, y)];
    if (pixel == value) return;
    pixel = value;
    if (extent != nullptr) extent->add(x, y);
  }
  void disc(Point c, int radius, std::uint8_t value, Extent* extent = nullptr) {
    for (int y = -radius; y <= radius; ++y)
      for (int x = -radius; x <= radius; ++x)
        if (x * x + y * y <= radius * radius) set(c.x + x, c.y + y, value, extent);
  }
  /// A ragged spot: a few discs around a centre.
  void spot(Point c, int radius, std::uint8_t value, Extent* extent) {
    disc(c, std::max(1, radius - 1), value, extent);
    for (int i = random_.between(3, 5); i > 0; --i)
      disc({c.x + random_.between(-radius / 2 - 1, radius / 2 + 1), c.y + random_.between(-radius / 2 - 1, radius / 2 + 1)},
           std::max(1, radius / 2), value, extent);
  }
  void line(Point a, Point b, int width, std::uint8_t value, Extent* extent = nullptr) {
    const double dx = b.x - a.x, dy = b.y - a.y, length2 = std::max(1.0, dx * dx + dy * dy), r = width / 2.0;
    const int margin = width / 2 + 1;
    for (int y = std::min(a.y, b.y) - margin; y <= std::max(a.y, b.y) + margin; ++y)
      for (int x = std::min(a.x, b.x) - margin; x <= std::max(a.x, b.x) + margin; ++x) {
        const double t = std::clamp(((x - a.x) * dx + (y - a.y) * dy) / length2, 0.0, 1.0);
        const double ex = x - (a.x + t * dx), ey = y - (a.y + t * dy);
        if (ex * ex + ey * ey <= r * r) set(x, y, value, extent);
      }
  }
  [[nodiscard]] bool all(Point c, int radius, std::uint8_t value) const {
    for (int y = -radius; y <= radius; ++y)
      for (int x = -radius; x <= radius; ++x)
        if (x * x + y * y <= radius * radius && (!inside(c.x + x, c.y + y) || canvas_.pixels[canvas_.at(c.x + x, c.y + y)] != value))
          return false;
    return true;
  }
  [[nodiscard]] bool clear_path(Point a, Point b, int half_width) const {
    const int steps = std::max(std::abs(b.x - a.x), std::abs(b.y - a.y));
    for (int i = 0; i <= steps; i += 3) {
      const Point p{a.x + (b.x - a.x) * i / std::max(1, steps), a.y + (b.y - a.y) * i / std::max(1, steps)};
      for (int y = -half_width; y <= half_width; y += 3)
        for (int x = -half_width; x <= half_width; x += 3)
          if (copper(p.x + x, p.y + y)) return false;
    }
    return true;
  }

  // ---- copper
  void draw_copper() {
    first_type_ = random_.between(0, 5);
    const int buses = std::max(5, size_ * size_ / 22'000);
    for (int i = 0, attempts = 0; i < buses && attempts < 50 * buses; ++attempts) i += try_bus() ? 1 : 0;
    for (int i = std::max(3, size_ * size_ / 40'000), attempts = 0; i > 0 && attempts < 300; ++attempts) i -= try_pad() ? 1 : 0;
  }

  /// Parallel tracks that bend once by 45 degrees, each ending in a pad when it is alone.
  bool try_bus() {
    const int tracks = random_.chance(45) ? 1 : random_.between(2, 5);
    const int width = tracks == 1 ? random_.between(10, 34) : random_.between(8, 16);
    const int pitch = width + random_.between(9, 22);
    const int direction = random_.between(0, 7);
    const int turn = (direction + (random_.chance(50) ? 1 : 7)) % 8;
    const int first = random_.between(size_ / 6, size_ / 2), second = random_.between(size_ / 8, size_ / 2);
    const Point start{random_.between(0, size_ - 1), random_.between(0, size_ - 1)};
    std::vector<std::array<Point, 3>> paths;
    for (int k = 0; k < tracks; ++k) {
      const Point along = kDirections[direction], side = kDirections[(direction + 2) % 8], bend = kDirections[turn];
      // diagonal directions are longer by sqrt 2; 7/10 keeps pitch and length even
      const auto scaled = [](int n, Point d) { return (d.x != 0 && d.y != 0) ? n * 7 / 10 : n; };
      const int off = scaled(k * pitch, side);
      const int sign = turn == (direction + 1) % 8 ? -1 : 1;
      const int run = scaled(first, along) + sign * scaled(k * pitch, side) * 4 / 10;   // keeps the gap through the bend
      const Point a{start.x + side.x * off, start.y + side.y * off};
      const Point b{a.x + along.x * run, a.y + along.y * run};
      const int rest = scaled(second, bend);
      const Point c{b.x + bend.x * rest, b.y + bend.y * rest};
      const int reach = width / 2 + 9;
      if (!clear_path(a, b, reach) || !clear_path(b, c, reach)) return false;
      paths.push_back({a, b, c});
    }
    for (const auto& p : paths) {
      line(p[0], p[1], width, kCopper);
      line(p[1], p[2], width, kCopper);
      segments_.push_back({p[0], p[1], width, direction});
      segments_.push_back({p[1], p[2], width, turn});
    }
    if (tracks == 1) {
      add_pad(paths[0][0], width);
      if (random_.chance(60)) add_pad(paths[0][2], width);
    }
    return true;
  }
  void add_pad(Point c, int width) {
    const int radius = width / 2 + random_.between(8, 18);
    if (!inside(c.x, c.y)) return;
    disc(c, radius, kCopper);
    const int hole = random_.between(6, std::max(7, radius / 3));
    disc(c, hole, kSubstrate);
    pads_.push_back({c, radius, hole});
  }
  bool try_pad() {
    const Point c{random_.between(20, size_ - 21), random_.between(20, size_ - 21)};
    const int half_w = random_.between(14, 34), half_h = random_.between(14, 34);
    const int reach = std::max(half_w, half_h) + 10;
    if (!clear_path({c.x - reach, c.y}, {c.x + reach, c.y}, reach)) return false;
    if (random_.chance(50)) {
      add_pad(c, 2 * std::min(half_w, half_h) - 20);
    } else {
      for (int y = -half_h; y <= half_h; ++y)
        for (int x = -half_w; x <= half_w; ++x) set(c.x + x, c.y + y, kCopper);
      pads_.push_back({c, std::min(half_w, half_h), 0});
    }
    return true;
  }

  // ---- defects
  /// A point on a straight piece of track, away from its ends, and the track's own frame.
  struct Spot { Point at; Point along; Point normal; int half{}; double unit{}; };
  bool pick_on_track(Spot& spot, int width_min) {
    if (segments_.empty()) return false;
    const Segment& s = segments_[static_cast<std::size_t>(random_.between(0, static_cast<int>(segments_.size()) - 1))];
    if (s.width < width_min) return false;
    const int t = random_.between(18, 82);
    spot.at = {s.a.x + (s.b.x - s.a.x) * t / 100, s.a.y + (s.b.y - s.a.y) * t / 100};
    spot.along = kDirections[s.direction];
    spot.normal = kDirections[(s.direction + (random_.chance(50) ? 2 : 6)) % 8];
    spot.half = s.width / 2;
    spot.unit = (spot.along.x != 0 && spot.along.y != 0) ? 0.70710678 : 1.0;
    return inside(spot.at.x, spot.at.y) && copper(spot.at.x, spot.at.y);
  }
  [[nodiscard]] static Point moved(Point p, Point direction, double unit, double distance) {
    return {p.x + static_cast<int>(std::lround(direction.x * unit * distance)), p.y + static_cast<int>(std::lround(direction.y * unit * distance))};
  }

  bool room_for(const Extent& e, int margin) const {
    const int x1 = e.x1 - margin, y1 = e.y1 - margin, x2 = e.x2 + margin, y2 = e.y2 + margin;
    if (x1 < 2 || y1 < 2 || x2 > size_ - 2 || y2 > size_ - 2) return false;
    return std::none_of(labels_.begin(), labels_.end(), [&](const Label& l) {
      return static_cast<float>(x1) < l.x2 + 4 && l.x1 < static_cast<float>(x2) + 4 && static_cast<float>(y1) < l.y2 + 4 &&
             l.y1 < static_cast<float>(y2) + 4;
    });
  }
  /// Draw on a copy, keep it when the mark has room of its own.
  template <class Draw>
  bool commit(int type, Draw&& draw) {
    const Image before = canvas_;
    Extent extent;
    draw(&extent);
    const int margin = random_.between(7, 10);
    if (extent.empty() || extent.x2 - extent.x1 < 3 || extent.y2 - extent.y1 < 3 || !room_for(extent, margin)) {
      canvas_ = before;
      return false;
    }
    labels_.push_back({static_cast<float>(extent.x1 - margin), static_cast<float>(extent.y1 - margin),
                       static_cast<float>(extent.x2 + margin), static_cast<float>(extent.y2 + margin), type});
    return true;
  }

  bool try_defect(int type) {
    switch (type) {
      case 0: return try_open();
      case 1: return try_short();
      case 2: return try_mousebite();
      case 3: return try_spur();
      case 4: return try_copper();
      default: return try_pinhole();
    }
  }
  bool try_open() {
    Spot s;
    if (!pick_on_track(s, 6)) return false;
    const int gap = random_.between(4, 9);
    return commit(0, [&](Extent* e) {
      for (int d = -s.half - 1; d <= s.half + 1; d += 2)   // ragged: each slice of the gap is shifted a little
        spot(moved(moved(s.at, s.normal, s.unit, d), s.along, s.unit, random_.between(-2, 2)), gap / 2 + 2, kSubstrate, e);
    });
  }
  bool try_short() {
    Spot s;
    if (!pick_on_track(s, 6)) return false;
    int from = -1, to = -1;
    for (int d = s.half - 2; d < s.half + 46; ++d) {
      const Point p = moved(s.at, s.normal, s.unit, d);
      if (!inside(p.x, p.y)) return false;
      if (from < 0 && !copper(p.x, p.y)) from = d;
      if (from >= 0 && copper(p.x, p.y)) {
        to = d;
        break;
      }
    }
    if (from < 0 || to < 0 || to - from < 6) return false;
    const int width = random_.between(4, 8);
    return commit(1, [&](Extent* e) {
      const Point middle = moved(moved(s.at, s.normal, s.unit, (from + to) / 2.0), s.along, s.unit, random_.between(-4, 4));
      line(moved(s.at, s.normal, s.unit, from - 1), middle, width, kCopper, e);
      line(middle, moved(s.at, s.normal, s.unit, to + 1), width, kCopper, e);
    });
  }
  bool try_mousebite() {
    Spot s;
    if (!pick_on_track(s, 9)) return false;
    const int radius = std::clamp(s.half * random_.between(55, 85) / 100, 4, 8);
    return commit(2, [&](Extent* e) { spot(moved(s.at, s.normal, s.unit, s.half - 1), radius - 1, kSubstrate, e); });
  }
  bool try_spur() {
    Spot s;
    if (!pick_on_track(s, 6)) return false;
    const int length = random_.between(6, 12);
    const Point tip = moved(moved(s.at, s.normal, s.unit, s.half + length), s.along, s.unit, random_.between(-4, 4));
    if (!all(tip, 4, kSubstrate)) return false;   // a thorn that touches its neighbour would be a short
    return commit(3, [&](Extent* e) {
      const Point root = moved(s.at, s.normal, s.unit, s.half - 1);
      line(root, tip, random_.between(4, 6), kCopper, e);
      disc(root, random_.between(3, 4), kCopper, e);
    });
  }
  bool try_copper() {
    const Point c{random_.between(12, size_ - 13), random_.between(12, size_ - 13)};
    if (!all(c, 16, kSubstrate)) return false;
    return commit(4, [&](Extent* e) {
      spot(c, random_.between(3, 6), kCopper, e);
      if (random_.chance(40)) line(c, {c.x + random_.between(-9, 9), c.y + random_.between(-9, 9)}, random_.between(3, 6), kCopper, e);
    });
  }
  bool try_pinhole() {
    Point c;
    if (!pads_.empty() && random_.chance(60)) {
      const Pad& pad = pads_[static_cast<std::size_t>(random_.between(0, static_cast<int>(pads_.size()) - 1))];
      c = {pad.center.x + random_.between(-pad.radius, pad.radius), pad.center.y + random_.between(-pad.radius, pad.radius)};
    } else {
      Spot s;
      if (!pick_on_track(s, 14)) return false;
      c = s.at;
    }
    if (!all(c, 6, kCopper)) return false;
    return commit(5, [&](Extent* e) { spot(c, random_.between(2, 3), kSubstrate, e); });
  }

  Random random_;
  int size_;
  Image canvas_;
  int first_type_{};
  std::vector<Segment> segments_;
  std::vector<Pad> pads_;
  std::vector<Label> labels_;
};

}  // namespace

Board draw_board(std::uint64_t seed, int size, int defects) { return Artist(seed, std::max(160, size)).run(defects); }

float iou(const Label& a, const Label& b) {
  const float w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1), h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  if (w <= 0 || h <= 0) return 0;
  const float inter = w * h;
  return inter / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - inter);
}

std::string to_text(const std::vector<Label>& labels) {
  std::string text;
  for (const Label& l : labels) {
    for (const float v : {l.x1, l.y1, l.x2, l.y2}) text += std::to_string(std::lround(v)) + ' ';
    text += std::to_string(l.type + 1) + '\n';
  }
  return text;
}

bool read_labels(const std::string& text, std::vector<Label>& labels, std::string& error) {
  labels.clear();
  const char* p = text.c_str();
  const auto blank = [](char c) { return c == ' ' || c == ',' || c == '\t' || c == '\r'; };
  for (int line = 1; *p != '\0'; ++line) {
    double v[5]{};
    int n = 0;
    while (*p != '\0' && *p != '\n') {
      if (blank(*p)) {
        ++p;
        continue;
      }
      char* end = nullptr;
      const double value = std::strtod(p, &end);
      if (end == p || n == 5) {
        error = "line " + std::to_string(line) + ": expected 'x1 y1 x2 y2 type'";
        return false;
      }
      v[n++] = value;
      p = end;
    }
    if (*p == '\n') ++p;
    if (n == 0) continue;
    if (n != 5 || v[4] < 1 || v[4] > 6 || v[2] <= v[0] || v[3] <= v[1]) {
      error = "line " + std::to_string(line) + ": expected 'x1 y1 x2 y2 type' with x1<x2, y1<y2 and type 1..6";
      return false;
    }
    labels.push_back({static_cast<float>(v[0]), static_cast<float>(v[1]), static_cast<float>(v[2]), static_cast<float>(v[3]), static_cast<int>(v[4]) - 1});
  }
  return true;
}

}  // namespace gq::image
