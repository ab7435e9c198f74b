// picture.cpp - who had which card when, as SVG: a row per card with compute above and memory below, or bands for a whole fleet.
#include <algorithm>
#include <cmath>
#include <map>

#include "tests/sim/format.h"
#include "tests/sim/record.h"

namespace gq::sim {
namespace {

constexpr std::array kClasses{JobClass::inference, JobClass::training, JobClass::synthesis};
constexpr std::array<const char*, kJobClasses> kColour{"#2f6fde", "#e08a1e", "#2f9e63"};
constexpr std::array<const char*, kJobClasses> kPale{"#c9dbf8", "#fbe6c8", "#cdebd9"};
constexpr double kLeft = 96, kRight = 24, kWidth = 1400;
constexpr std::size_t kRowsMax = 8;  ///< cards with a row of their own
constexpr std::int64_t kHourUs = 3'600'000'000;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else out += c;
  }
  return out;
}

class Picture {
 public:
  Picture(const Scenario& scenario, const Record& record, const Figures& figures) : s_(scenario), r_(record), f_(figures) {}

  std::string draw() {
    head();
    const double first = y_ + 18;  // the axis above the rows
    y_ = first;
    if (r_.cards.size() <= kRowsMax) {
      for (std::uint32_t card = 0; card < r_.cards.size(); ++card) card_row(card);
    } else {
      fleet();
    }
    axis(first - 6, y_);
    legend();
    return format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"12\">\n"
                  "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n", kWidth, y_ + 12, kWidth, y_ + 12) + under_ + out_ + "</svg>\n";
  }

 private:
  [[nodiscard]] double x(std::int64_t us) const {
    return kLeft + (kWidth - kLeft - kRight) * static_cast<double>(us) / static_cast<double>(s_.length_us);
  }
  void text(double at_x, double at_y, const std::string& words, const char* more = "") { out_ += format("<text x=\"%.1f\" y=\"%.1f\" %s>", at_x, at_y, more) + escaped(words) + "</text>\n"; }
  void box(double at_x, double at_y, double w, double h, const char* fill, const std::string& more = "", const std::string& title = "") {
    out_ += format("<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\" %s", at_x, at_y, w, h, fill, more.c_str());
    out_ += title.empty() ? "/>\n" : "><title>" + escaped(title) + "</title></rect>\n";
  }
  [[nodiscard]] std::string clock(std::int64_t us) const {
    const std::int64_t local = s_.local_start_us + us;
    return format("%02d:%02d", static_cast<int>(local / kHourUs % 24), static_cast<int>(local / 60'000'000 % 60));
  }

  void head() {
    y_ = 30;
    text(24, y_, s_.title, "font-size=\"19\" font-weight=\"bold\"");
    for (const Verdict& v : f_.verdicts) {
      y_ += 18;
      box(24, y_ - 10, 10, 10, v.kept ? "#2f9e63" : "#d62828", "rx=\"2\"");
      text(40, y_, v.promise + (v.kept ? "" : "   BROKEN"), v.kept ? "fill=\"#333\"" : "fill=\"#d62828\" font-weight=\"bold\"");
      text(560, y_, v.found, "fill=\"#333\" font-weight=\"bold\"");
    }
    double right = y_ - 18 * static_cast<double>(f_.verdicts.size()) + 18;
    for (const JobClass c : kClasses) {
      const auto i = static_cast<std::size_t>(c);
      box(900, right - 10, 10, 10, kColour[i], "rx=\"2\"");
      text(916, right, format("%-9s %5.1f %% of the GPU time, %llu jobs done, stopped early %llu times", std::string(gq::to_string(c)).c_str(), f_.of[i].utilisation_pct,
                              static_cast<unsigned long long>(r_.classes[i].done), static_cast<unsigned long long>(stops(i))), "fill=\"#333\"");
      right += 18;
    }
    text(916, right, format("idle %.1f %%", f_.idle_pct), "fill=\"#777\"");
    y_ = std::max(y_, right) + 16;
  }
  [[nodiscard]] std::uint64_t stops(std::size_t c) const {
    std::uint64_t n = 0;
    for (std::size_t why = 1; why < kStops; ++why) n += r_.classes[c].stops[why];
    return n;
  }

  /// Stacked share of the compute of some cards; bins are drawn one pixel wide at least.
  void compute(double top, double height, const std::vector<std::uint32_t>& cards) {
    const std::size_t bins = r_.bins();
    const std::size_t step = std::max<std::size_t>(1, bins / 700);
    std::vector<double> below(bins, 0);
    for (const JobClass c : kClasses) {
      const auto i = static_cast<std::size_t>(c);
      std::string up, down;
      for (std::size_t bin = 0; bin < bins; bin += step) {
        const auto [from, to, share] = busy(cards, i, bin, step);
        const double low = top + height * (1 - below[bin]), high = top + height * (1 - std::min(1.0, below[bin] + share));
        up += format("L%.1f %.1f L%.1f %.1f ", x(from), high, x(to), high);
        down = format("L%.1f %.1f L%.1f %.1f ", x(to), low, x(from), low) + down;
        below[bin] += share;
      }
      if (up.empty()) continue;
      up[0] = 'M';
      out_ += "<path d=\"" + up + down + "Z\" fill=\"" + kColour[i] + "\"/>\n";
    }
  }

  struct Placed { std::int64_t low, high, to_us; };
  /// Models stand from the bottom up, jobs hang from the top down; each keeps its place as long as it stays.
  static std::int64_t place(std::vector<Placed>& there, std::int64_t from_us, std::int64_t to_us, std::int64_t size) {
    std::erase_if(there, [&](const Placed& p) { return p.to_us <= from_us; });
    std::sort(there.begin(), there.end(), [](const Placed& a, const Placed& b) { return a.low < b.low; });
    std::int64_t low = 0;
    for (const Placed& p : there) {
      if (p.low - low >= size) break;
      low = std::max(low, p.high);
    }
    there.push_back({low, low + size, to_us});
    return low;
  }

  void card_row(std::uint32_t card) {
    constexpr double kCompute = 46;
    const double memory = std::max(90.0, 420.0 / static_cast<double>(r_.cards.size()) - kCompute);
    text(24, y_ + 14, r_.card_names[card], "font-weight=\"bold\"");
    text(24, y_ + 30, "compute", "fill=\"#777\" font-size=\"11\"");
    under_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#f4f4f4\"/>\n", kLeft, y_, kWidth - kLeft - kRight, kCompute);
    windows(y_, kCompute + 4 + memory);
    compute(y_, kCompute, {card});
    y_ += kCompute + 4;
    text(24, y_ + 14, "memory", "fill=\"#777\" font-size=\"11\"");
    text(24, y_ + 28, format("%.0f GiB", static_cast<double>(r_.cards[card].value) / 1024), "fill=\"#777\" font-size=\"11\"");
    out_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#bbb\"/>\n", kLeft, y_, kWidth - kLeft - kRight, memory);
    const double per_mib = memory / static_cast<double>(r_.cards[card].value);
    std::vector<Placed> models, jobs;
    for (const Block& b : r_.blocks) {
      if (b.card != card) continue;
      const std::int64_t to = b.to_us < 0 ? r_.length_us : b.to_us;
      const bool model = b.job == kNoJob;
      const std::int64_t floor = place(model ? models : jobs, b.from_us, to, b.size.value);
      const double h = std::max(1.0, static_cast<double>(b.size.value) * per_mib);
      const double top = model ? y_ + memory - static_cast<double>(floor) * per_mib - h : y_ + static_cast<double>(floor) * per_mib;
      const auto c = static_cast<std::size_t>(b.job_class);
      const std::string name = model ? (b.model < s_.models.size() ? s_.models[b.model].name : "model") : s_.streams[r_.jobs[b.job].stream].name;
      const double w = std::max(0.6, x(to) - x(b.from_us));
      box(x(b.from_us), top, w, h, model ? kPale[c] : kColour[c], model ? format("stroke=\"%s\" stroke-width=\"0.5\"", kColour[c]) : "fill-opacity=\"0.85\" stroke=\"#fff\" stroke-width=\"0.4\"",
          name + (model ? "" : " #" + std::to_string(b.job)) + ", " + gq::to_string(b.size) + ", " + clock(b.from_us) + "-" + clock(to) + (b.stopped == Stop::none ? "" : ", " + reason(b)));
      if (w > 7.5 * static_cast<double>(name.size()) + 8 && h >= 13) text(x(b.from_us) + 4, top + std::min(h / 2, 40.0) + 4, name, model ? "fill=\"#335\" font-size=\"11\"" : "fill=\"#fff\" font-size=\"11\"");
    }
    double last = -10;
    for (const Mark& m : r_.marks) {
      if (m.card != card) continue;
      const double at = x(m.at_us);
      if (at - last < 1.5) continue;  // one sign does for a crowd
      last = at;
      sign(at, y_ - 2, m.why, m.by_class);
    }
    y_ += memory + 22;
  }
  static std::string reason(const Block& b) {
    switch (b.stopped) {
      case Stop::for_class: return "left for a higher class";
      case Stop::window: return "left before its window closed";
      case Stop::by_hand: return "asked to leave by hand";
      case Stop::killed: return "killed at the deadline";
      case Stop::lost: return "lost with its machine";
      default: return "left";
    }
  }
  void sign(double at, double top, Stop why, JobClass by) {
    const char* colour = why == Stop::for_class ? kColour[static_cast<std::size_t>(by)] : why == Stop::window ? "#555" : why == Stop::lost ? "#d62828" : "#7a3fb0";
    out_ += format("<path d=\"M%.1f %.1f l-5 -9 l10 0 Z\" fill=\"%s\" stroke=\"#fff\" stroke-width=\"0.8\"/>\n", at, top + 4, colour);
  }

  void windows(double top, double height) {
    for (const JobClass c : kClasses) {
      const core::Window* window = s_.policy.window(s_.policy.of(c).window);
      if (window == nullptr) continue;
      for (const core::Span& span : window->spans) {
        const std::int64_t from = std::max<std::int64_t>(0, (span.open_ms - s_.start_ms) * 1000), to = std::min(s_.length_us, (span.close_ms - s_.start_ms) * 1000);
        if (from >= to) continue;
        under_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\" fill-opacity=\"0.35\"/>\n", x(from), top - 4, x(to) - x(from), height + 8, kPale[static_cast<std::size_t>(c)]);
      }
    }
  }

  /// A large fleet: shares of all cards, then a band per size of card and class.
  void fleet() {
    std::vector<std::uint32_t> all(r_.cards.size());
    for (std::uint32_t i = 0; i < all.size(); ++i) all[i] = i;
    text(24, y_ + 14, "compute", "font-weight=\"bold\"");
    text(24, y_ + 30, format("%zu cards", all.size()), "fill=\"#777\" font-size=\"11\"");
    text(kLeft - 6, y_ + 8, "100 %", "text-anchor=\"end\" fill=\"#999\" font-size=\"10\" display=\"none\"");
    under_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"220\" fill=\"#f4f4f4\"/>\n", kLeft, y_, kWidth - kLeft - kRight);
    windows(y_, 220);
    compute(y_, 220, all);
    y_ += 220;
    lost_machines();
    std::map<std::int64_t, std::vector<std::uint32_t>> by_size;
    for (const std::uint32_t card : all) by_size[r_.cards[card].value].push_back(card);
    for (const auto& [size, cards] : by_size) {
      y_ += 8;
      text(24, y_ + 18, format("%.0f GiB", static_cast<double>(size) / 1024), "font-weight=\"bold\"");
      text(24, y_ + 34, format("%zu cards", cards.size()), "fill=\"#777\" font-size=\"11\"");
      for (const JobClass c : kClasses) band(cards, static_cast<std::size_t>(c));
    }
    y_ += 22;
  }
  struct Busy {
    std::int64_t from, to;   ///< us
    double share;            ///< of these cards' compute, 0..1
  };
  [[nodiscard]] Busy busy(const std::vector<std::uint32_t>& cards, std::size_t c, std::size_t bin, std::size_t step) const {
    double sum = 0;
    for (std::size_t k = bin; k < std::min(r_.bins(), bin + step); ++k)
      for (const std::uint32_t card : cards) sum += static_cast<double>(r_.busy[card][c][k]);
    const std::int64_t from = static_cast<std::int64_t>(bin) * r_.bin_us, to = std::min(from + static_cast<std::int64_t>(step) * r_.bin_us, r_.length_us);
    return {from, to, std::min(1.0, sum * 64 / 1000 / static_cast<double>(to - from) / static_cast<double>(cards.size()))};
  }

  void band(const std::vector<std::uint32_t>& cards, std::size_t c) {
    const std::size_t bins = r_.bins(), step = std::max<std::size_t>(1, bins / 240);
    out_ += format("<g fill=\"%s\">", kColour[c]);
    for (std::size_t bin = 0; bin < bins; bin += step) {
      const auto [from, to, share] = busy(cards, c, bin, step);
      if (share >= 0.01) out_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.2f\" height=\"15\" fill-opacity=\"%.2f\"/>", x(from), y_, x(to) - x(from) + 0.3, share);
    }
    out_ += "</g>\n";
    out_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"15\" fill=\"none\" stroke=\"#ddd\"/>\n", kLeft, y_, kWidth - kLeft - kRight);
    y_ += 16;
  }
  void lost_machines() {
    text(24, y_ + 14, "lost", "fill=\"#d62828\" font-size=\"11\"");
    out_ += "<g stroke=\"#d62828\" stroke-width=\"1\">";
    for (const Mark& m : r_.marks)
      if (m.why == Stop::lost && m.job == kNoJob) out_ += format("<path d=\"M%.1f %.1f v9\"/>", x(m.at_us), y_ + 5);
    out_ += "</g>\n";
    y_ += 18;
  }

  void axis(double top, double bottom) {
    const std::int64_t hours = s_.length_us / kHourUs;
    const std::int64_t every = hours <= 3 ? kHourUs / 4 : hours <= 8 ? kHourUs / 2 : hours <= 26 ? kHourUs : hours <= 80 ? 3 * kHourUs : 12 * kHourUs;
    for (std::int64_t at = (every - s_.local_start_us % every) % every; at <= s_.length_us; at += every) {
      under_ += format("<path d=\"M%.1f %.1f V%.1f\" stroke=\"#e2e2e2\"/>\n", x(at), top, bottom - 12);
      text(x(at), bottom, clock(at), "text-anchor=\"middle\" fill=\"#555\" font-size=\"11\"");
    }
    for (const JobClass c : kClasses) {
      const core::Window* window = s_.policy.window(s_.policy.of(c).window);
      if (window == nullptr) continue;
      for (const core::Span& span : window->spans) {
        const std::int64_t from = std::max<std::int64_t>(0, (span.open_ms - s_.start_ms) * 1000), to = std::min(s_.length_us, (span.close_ms - s_.start_ms) * 1000);
        if (from < to) text((x(from) + x(to)) / 2, top - 2, std::string(gq::to_string(c)) + "'s window", "text-anchor=\"middle\" fill=\"#a86510\" font-size=\"11\"");
      }
    }
    y_ += 8;
  }

  void legend() {
    y_ += 18;
    double at = kLeft;
    const auto item = [&](const char* fill, const char* stroke, const std::string& words) {
      box(at, y_ - 10, 14, 11, fill, stroke);
      text(at + 20, y_, words, "fill=\"#333\" font-size=\"11\"");
      at += 36 + 6.0 * static_cast<double>(words.size());
    };
    for (const JobClass c : kClasses) item(kColour[static_cast<std::size_t>(c)], "", std::string(gq::to_string(c)));
    if (r_.cards.size() > kRowsMax) return;
    item(kPale[0], "stroke=\"#2f6fde\" stroke-width=\"0.5\"", "a loaded model's memory");
    const auto mark = [&](Stop why, const std::string& words) {
      sign(at + 6, y_ - 4, why, JobClass::inference);
      text(at + 18, y_, words, "fill=\"#333\" font-size=\"11\"");
      at += 34 + 5.9 * static_cast<double>(words.size());
    };
    mark(Stop::for_class, "left for a higher class (its colour)");
    mark(Stop::window, "window closes");
    mark(Stop::lost, "machine lost");
    mark(Stop::by_hand, "by hand, killed");
  }

  const Scenario& s_;
  const Record& r_;
  const Figures& f_;
  std::string under_, out_;
  double y_{};
};

}  // namespace

std::string picture(const Scenario& scenario, const Record& record, const Figures& figures) { return Picture(scenario, record, figures).draw(); }

}  // namespace gq::sim
