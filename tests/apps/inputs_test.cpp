// Bad vectors, codes and ground truth: one line that names the file, exit code 1, and no output.
#include <cmath>
#include <limits>

#include "tensor/create.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

std::string fvecs_row(int32_t d, const std::vector<float>& values) {
  std::string bytes(reinterpret_cast<const char*>(&d), sizeof(d));
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return bytes;
}

/// Every subcommand that reads vectors, reading `path` instead.
std::vector<Arguments> readers(const Workspace& space, const std::string& path) {
  return {with(space.encode(), "--i", path),
          with(space.eval(), "--base", path),
          with(space.eval(), "--queries", path),
          with(space.baseline(), "--training_data", path),
          with(space.baseline(), "--base", path),
          with(space.train(1), "--training_data", path),
          {"info", path}};
}

void expect_refused(const Workspace& space, const std::string& path, std::initializer_list<std::string> parts) {
  for (const Arguments& arguments : readers(space, path)) expect_error(space.path(), arguments, 1, parts);
}

TEST_CASE("inputs: missing files and directories") {
  const Workspace space;
  expect_refused(space, space.file("missing.fvecs"), {"missing.fvecs: cannot open"});
  std::filesystem::create_directory(space.file("folder.fvecs"));
  expect_refused(space, space.file("folder.fvecs"), {"folder.fvecs: expected a file, found a directory"});
  for (const Arguments& arguments :
       {with(space.encode(), "--model", space.file("no.safetensors")),
        with(space.decode(), "--i", space.file("no.npy")), with(space.eval(), "--groundtruth", space.file("no.ivecs"))})
    expect_error(space.path(), arguments, 1, {"no.", "cannot open"});
  expect_error(space.path(), with(space.encode(), "--model", space.path().string()), 1, {"directory"});
}

TEST_CASE("inputs: empty, truncated, over-long and foreign vector files") {
  const Workspace space;
  const std::string path = space.file("bad.fvecs"), good = read_bytes(space.base());
  const auto refused = [&](const std::string& bytes, std::initializer_list<std::string> parts) {
    write_bytes(path, bytes);
    expect_refused(space, path, parts);
  };
  refused("", {"bad.fvecs: empty file"});
  refused("xyz", {"bad.fvecs", "too short"});
  refused(good.substr(0, good.size() - 5), {"bad.fvecs", "cut short"});
  refused(good + "1234567", {"bad.fvecs", "cut short"});
  refused("this is not a vector file, but a text", {"bad.fvecs: row 0 has dimension"});
  write_bytes(space.file("vectors.txt"), good);
  expect_refused(space, space.file("vectors.txt"), {"vectors.txt"});
}

TEST_CASE("inputs: zero, negative and huge dimensions, rows of different dimensions") {
  const Workspace space;
  const std::string path = space.file("bad.fvecs");
  for (const int32_t d : {0, -8, std::numeric_limits<int32_t>::min(), 1 << 28, std::numeric_limits<int32_t>::max()}) {
    write_bytes(path, fvecs_row(d, std::vector<float>(8, 1.0f)));
    expect_refused(space, path, {"bad.fvecs: row 0 has dimension", std::to_string(d)});
  }
  std::string rows;
  for (int i = 0; i < 700; ++i) rows += fvecs_row(8, std::vector<float>(8, static_cast<float>(i)));
  write_bytes(path, rows + fvecs_row(9, std::vector<float>(9, 1.0f)));
  expect_refused(space, path, {"bad.fvecs: row 700 has dimension 9, expected 8"});
}

TEST_CASE("inputs: NaN and infinite rows are named") {
  const Workspace space;
  const std::string path = space.file("bad.fvecs");
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    const Tensor x = space.base_vectors().clone();
    x.data<float>()[123 * Workspace::kD + 5] = bad;
    write_vectors(path, x);
    for (const Arguments& arguments :
         {with(space.encode(), "--i", path), with(space.eval(), "--base", path),
          with(space.train(1), "--training_data", path), with(space.baseline(), "--training_data", path)})
      expect_error(space.path(), arguments, 1, {"bad.fvecs: row 123 holds a NaN or an infinity"});
  }
}

TEST_CASE("inputs: hostile .npy headers") {
  const Workspace space;
  const std::string path = space.file("bad.npy"), magic = std::string("\x93NUMPY\x01\x00", 8);
  const auto npy = [&](const std::string& header, const std::string& data) {
    std::string bytes = magic;
    bytes += static_cast<char>(header.size() & 0xff);
    bytes += static_cast<char>(header.size() >> 8);
    return bytes + header + data;
  };
  const auto refused = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    expect_refused(space, path, {"bad.npy"});
    expect_error(space.path(), with(space.decode(), "--i", path), 1, {"bad.npy"});
  };
  refused("");
  refused(magic);
  refused(magic + "\xff\xff");
  refused(npy("", ""));
  refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 8), }\n", std::string(127, 'x')));
  refused(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (4, 8), }\n", std::string(128, 'x')));
  refused(npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 8), }\n", std::string(128, 'x')));
  refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 8), }\n", std::string(128, 'x')));
  refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387905, 4), }\n", ""));
  refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 8), }\n", ""));
  refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 8), }\n", ""));
  refused(npy(std::string(60000, '('), ""));
}

TEST_CASE("inputs: dimensions that disagree name both files") {
  const Workspace space;
  const std::string path = space.file("wide.fvecs");
  write_vectors(path, zeros({30, 9}));
  expect_error(space.path(), with(space.encode(), "--i", path), 1,
               {"wide.fvecs", "dimension 9, expected 8", "model.safetensors"});
  expect_error(space.path(), with(space.eval(), "--base", path), 1,
               {"wide.fvecs", "dimension 9, expected 8", "model.safetensors"});
  expect_error(space.path(), with(space.eval(), "--queries", path), 1, {"wide.fvecs", "dimension 9, expected 8"});
  expect_error(space.path(), with(space.baseline(), "--training_data", path), 1,
               {"dimension 8, expected 9", "wide.fvecs"});
}

TEST_CASE("inputs: ground truth that does not fit") {
  const Workspace space;
  const std::string path = space.file("gt.npy");
  const auto refused = [&](const Tensor& ids, std::initializer_list<std::string> parts) {
    write_npy(path, ids);
    expect_error(space.path(), with(space.eval(), "--groundtruth", path), 1, parts);
    expect_error(space.path(), with(space.baseline(), "--groundtruth", path), 1, parts);
  };
  refused(zeros({19, 10}, DType::i32), {"gt.npy: 19 rows, expected 20", "queries.fvecs"});
  refused(full({20, 10}, 600, DType::i32), {"gt.npy: row 0 holds id 600, expected 0 to 599"});
  refused(full({20, 10}, -1, DType::i64), {"gt.npy: row 0 holds id -1"});
  refused(zeros({20, 10}), {"gt.npy: ids of type f32"});
}

TEST_CASE("inputs: codes that do not fit the model") {
  const Workspace space;
  const std::string path = space.file("bad.npy");
  const Tensor codes = read_npy(space.codes()).clone();
  for (const int32_t bad : {16, -1, std::numeric_limits<int32_t>::max()}) {
    codes.data<int32_t>()[501 * Workspace::kM] = bad;
    write_npy(path, codes);
    expect_error(space.path(), with(space.decode(), "--i", path), 1, {"bad.npy: row 501 holds a code outside 0 to 15"});
  }
  write_npy(path, zeros({10, 2}, DType::i32));
  expect_error(space.path(), with(space.decode(), "--i", path), 1, {"bad.npy: shape [10,2], expected [n,3]"});
  write_npy(path, zeros({10, 3}));
  expect_error(space.path(), with(space.decode(), "--i", path), 1, {"bad.npy: codes of type f32"});
  Arguments raw = with(space.decode(), "--i", path);
  raw.push_back("--raw");
  for (const char* bytes : {"", "1", "12345"}) {
    write_bytes(path, bytes);
    expect_error(space.path(), raw, 1, {"bad.npy"});
  }
}

TEST_CASE("inputs: sizes that the data or the model cannot serve") {
  const Workspace space;
  for (const char* used : {"0", "-1", "4", "4000000000"})
    for (const Arguments& arguments : {space.decode(), space.eval()})
      expect_error(space.path(), with(arguments, "--M_used", used), 1, {used, "expected 1 to 3", "model.safetensors"});
  expect_error(space.path(), with(space.train(1), "--nt", "521"), 1, {"base.fvecs", "600"});
  expect_error(space.path(), with(space.train(1), "--nval", "601"), 1, {"base.fvecs", "600"});
  for (const char* K : {"17", "0", "-16", "1", "131072"}) {
    expect_error(space.path(), with(space.train(1), "--K", K), 1, {K, "power of two"});
    expect_error(space.path(), with(space.baseline(), "--K", K), 1, {K, "power of two"});
  }
  expect_error(space.path(), with(space.baseline(), "--K", "1024"), 1, {"1024", "600"});
  expect_error(space.path(), with(space.train(1), "--K", "1024"), 1, {"1024"});
  expect_error(space.path(), with(space.baseline(), "--nt", "601"), 1, {"601", "base.fvecs", "600"});
  expect_error(space.path(), with(space.baseline(), "--nt", "0"), 1, {"0 training vectors", "base.fvecs"});
  expect_error(space.path(), with(space.baseline(), "--rq_beam_size", "0"), 1, {"beam size 0"});
  for (const char* M : {"0", "-1", "1000000000000"}) {
    expect_error(space.path(), with(space.baseline(), "--M", M), 1, {});
    expect_error(space.path(), with(space.train(1), "--M", M), 1, {});
  }
  for (const char* width : {"0", "-1", "1000000000"}) {
    expect_error(space.path(), with(space.train(1), "--h", width), 1, {});
    expect_error(space.path(), with(space.train(1), "--L", width), 1, {});
  }
  for (const char* scale : {"0", "-1", "nan", "inf"})
    expect_error(space.path(), with(space.train(1), "--db_scale", scale), 1, {"db_scale"});
}

}  // namespace
}  // namespace qinco::tests
