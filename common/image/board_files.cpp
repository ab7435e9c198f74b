// board_files.cpp - boards on disk in the DeepPCB layout.
#include "common/image/board.h"

namespace gq::image {

bool write_board(const std::string& folder, const std::string& name, const Board& board, std::string& error) {
  const std::string base = folder + "/" + name;
  return write_file(base + "_test.png", encode_png(board.test), error) && write_file(base + "_temp.png", encode_png(board.clean), error) &&
         write_file(base + ".txt", to_text(board.labels), error);
}

}  // namespace gq::image
