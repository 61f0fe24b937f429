// Conversion between files of rows, and between codes and packed codes, block by block.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace qinco {

/// Called after every block with the rows done and their number in all; what it throws ends the conversion, and nothing
/// is written.
using ConvertProgress = std::function<void(int64_t done, int64_t n)>;

/// Copies a file of rows (rows.h) into another format; .npy keeps the type of what it is made from. Integer types take
/// whole numbers in their range only, and floating types integers they hold exactly. Throws Error naming file and row
/// for other values, NaN and infinities. Needs bounded memory. Returns the number of rows.
int64_t convert_rows(const std::string& in, const std::string& out, const ConvertProgress& progress);

/// Packs codes, rows of i32 or i64 in [0,K), the first of each in [0,K_first) if that is not 0, into raw codes
/// (codes.h).
int64_t pack_code_file(const std::string& in, const std::string& out, int64_t K, int64_t K_first,
                       const ConvertProgress& progress);
/// Unpacks raw codes of M indices below K, the first below K_first if that is not 0, into i32 rows.
int64_t unpack_code_file(const std::string& in, const std::string& out, int64_t M, int64_t K, int64_t K_first,
                         const ConvertProgress& progress);

}  // namespace qinco
