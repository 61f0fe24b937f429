// PyTorch files that lie, made by hand: each is refused with one line that names the file, and nothing is run.
#include <bit>
#include <cmath>
#include <ctime>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fstream>

#include "qinco/io/torch_file.h"
#include "tensor/random.h"
#include "tests/qinco/torch_archive.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::testing;
using tests::contains;
using tests::error_of;

namespace {

class Hostile {
 public:
  Hostile() : path_(directory_.file("bad.pt")) {}

  /// Reads a file of these bytes; the error must hold `part`.
  void refused(const std::string& bytes, const std::string& part) const {
    write(bytes);
    const std::string message = error_of([&] { read_model_file(path_); });
    CAPTURE(message);
    CAPTURE(part);
    CHECK(message.rfind(path_ + ": ", 0) == 0);
    CHECK(message.size() < path_.size() + 300);
    CHECK(contains(message, part));
  }
  void pickle_refused(const std::string& value, const std::string& part) const {
    refused(torch_file(pickle(value)), part);
  }
  void write(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }
  const std::string& path() const { return path_; }

 private:
  tests::TemporaryDirectory directory_;
  std::string path_;
};

/// A module of class `name` with these parameters and children: items of dicts.
std::string module(const std::string& name, const std::string& parameters, const std::string& children) {
  return global("torch.nn.modules.container", name) + ")\x81" +
         dict(text("_parameters") + dict(parameters) + text("_modules") + dict(children)) + "b";
}

std::string repeat(const std::string& piece, int64_t times) {
  std::string all;
  for (int64_t i = 0; i < times; ++i) all += piece;
  return all;
}

/// A state dict with one parameter.
std::string one_tensor(const std::string& value) {
  return dict(text("codebook0.weight") + value);
}

}  // namespace

TEST_CASE("hostile torch files: classes and functions that are no model's are named, never run") {
  const Hostile hostile;
  const std::string witness = hostile.path() + ".ran", command = text("touch " + witness);
  const std::pair<const char*, const char*> functions[] = {{"os", "system"},
                                                           {"posix", "system"},
                                                           {"nt", "system"},
                                                           {"subprocess", "Popen"},
                                                           {"builtins", "eval"},
                                                           {"builtins", "exec"},
                                                           {"builtins", "open"},
                                                           {"__builtin__", "getattr"},
                                                           {"torch.hub", "load"},
                                                           {"torch", "load"},
                                                           {"numpy", "load"},
                                                           {"torch.storage", "_load_from_bytes"},
                                                           {"torch.nn", "modules.os"},
                                                           {"torch.nn.modules.linear", "os.system"},
                                                           {"pickle", "loads"},
                                                           {"functools", "partial"},
                                                           {"model_qinco", "os.system"},
                                                           {"builtins", "object"},
                                                           {"argparse", "ArgumentParser"},
                                                           {"collections", "namedtuple"},
                                                           {"numpy.core.multiarray", "fromfile"},
                                                           {"numpy", "fromfile"},
                                                           {"pathlib", "Path.unlink"},
                                                           {"torch.optim", "Adam"},
                                                           {"torch.optim.adam", "os.system"},
                                                           {"torch.serialization", "load"}};
  for (const auto& [module_name, function] : functions) {
    const std::string full = std::string(module_name) + "." + function;
    hostile.pickle_refused(global(module_name, function) + tuple(command) + "R", full);
    hostile.pickle_refused(text(module_name) + text(function) + "\x93" + tuple(command) + "R", full);
  }
  CHECK_FALSE(std::filesystem::exists(witness));
  hostile.pickle_refused(global("a\"b\x1b[31m", "c"), "\\x1b");
  hostile.pickle_refused(std::string(1, 'c') + std::string(100000, 'a'), "class name");
  hostile.pickle_refused(text("a") + text(std::string(100000, 'b')) + "\x93", "class name");
}

TEST_CASE("hostile torch files: opcodes unknown, misplaced or missing") {
  const Hostile hostile;
  for (const char* op : {"i", "o", "P", "S", "I", "V", "F", "L", "\x82", "\x97", "\x98", "\xff"})
    hostile.pickle_refused(op, "unknown opcode");
  for (const char* op : {"a", "s", "R", "b", "Q", "0", "2", "\x81", "\x85", "\x93", "q\1", "(0"})
    hostile.pickle_refused(op, "byte");
  for (const char* op : {"e", "u", "t", "l", "1"}) hostile.pickle_refused(op, "no mark");
  hostile.pickle_refused("Na", "no list or dict");
  hostile.pickle_refused("NNa", "no list or dict");
  hostile.pickle_refused("N(NNu", "no list or dict");
  hostile.pickle_refused("](NNNu", "key without a value");
  hostile.pickle_refused("h\7", "nothing remembered");
  hostile.pickle_refused("N)R", "a call of no class");
  hostile.pickle_refused("NNb", "state");
  hostile.pickle_refused("NQ", "persistent id");
  hostile.pickle_refused("NN", "ends with 2 values");
  hostile.pickle_refused("(N", "expected 1");
  hostile.pickle_refused("N.N", "after its end");
  hostile.pickle_refused("\x80\x06N", "protocol 6");
  hostile.pickle_refused("\x8b\xff\xff\xff\xff", "truncated");
  hostile.pickle_refused("X\xff\xff\xff\xff", "truncated");
  hostile.pickle_refused("\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "text of");
  hostile.pickle_refused(global("collections", "Counter") + tuple(text("a")) + "R", "malformed Counter");
  hostile.pickle_refused(global("collections", "deque") + tuple(integer(3)) + "R", "malformed collections.deque");
  hostile.pickle_refused(global("builtins", "set") + tuple("]]") + "R", "malformed builtins.set");
  hostile.refused(torch_file("\x80\x02N"), "truncated");
  hostile.refused(torch_file(""), "truncated");
  for (const std::string& value : {std::string("N"), text("model"), integer(3), std::string("]"), std::string("(Nt")})
    hostile.pickle_refused(value, "expected a module or a dict");
}

TEST_CASE("hostile torch files: depth, references and sizes that explode") {
  const Hostile hostile;
  constexpr int64_t kMany = 2'000'000;
  hostile.pickle_refused(repeat("]", kMany), "memory");
  hostile.pickle_refused(repeat("(", kMany), "marks");
  hostile.pickle_refused(repeat("N", kMany), "values on the stack");
  hostile.pickle_refused(repeat("N", 1 << 19) + repeat("2", 1 << 20), "values on the stack");
  hostile.pickle_refused(repeat("]", 400'000) + repeat("a", 399'999), "expected a module");  // freed without recursion
  hostile.pickle_refused("r\xff\xff\xff\xff", "stack underflow");
  hostile.pickle_refused("Nr\xff\xff\xff\xff", "memory");
  hostile.pickle_refused("]q\1" + repeat("h\1a", 10) + repeat("0h\1(h\1e", kMany), "memory");
  std::string doubling = "](" + repeat("N", 1000) + "eq\1";  // sets of what was there, each a copy
  doubling += repeat(global("builtins", "set") + "h\1\x85R0", 10'000);
  hostile.pickle_refused(doubling, "memory");

  const std::string empty_module = global("torch.nn.modules.container", "Sequential") + ")\x81";
  hostile.pickle_refused(empty_module + "q\1" + dict(text("_modules") + dict(text("a") + "h\1")) + "b", "deep");
  std::string tree = module("Sequential", "", "") + "q\1";  // 2^31 modules by reference
  for (int i = 0; i < 31; ++i)
    tree += std::string("0") + module("Sequential", "", text("a") + "h\1" + text("b") + "h\1") + "q\1";
  hostile.pickle_refused(tree, "modules");
  const std::string named = tensor(integer(16), integer(1)) + "q\1";
  std::string copies = text("t") + named;
  for (int i = 0; i < 1000; ++i) copies += text(std::to_string(i)) + "h\1";
  hostile.pickle_refused(dict(copies), "bytes of tensors");
  std::string nothing = text("t") + tensor(integer(0), integer(1)) + "q\1";
  for (int i = 0; i < 70'000; ++i) nothing += text(std::to_string(i)) + "h\1";
  hostile.pickle_refused(dict(nothing), "more than 65536 tensors");
  hostile.pickle_refused(dict(text(std::string(5000, 'n')) + tensor(integer(1), integer(1))), "name of 5000");
  hostile.pickle_refused(dict(text("a") + tensor(integer(1), integer(1)) + text("a") + tensor(integer(1), integer(1))),
                         "two tensors");
}

TEST_CASE("hostile torch files: dicts within themselves or within thousands of others end soon") {
  const Hostile hostile;
  const std::clock_t start = std::clock();
  const std::string part = "dicts that hold each other";
  std::string items = text("parameters") + "}" + text("data_dim") + integer(8) + text("model") + "}";
  for (int i = 0; i < 30'000; ++i) items += text(std::to_string(i)) + "h\1";
  hostile.pickle_refused("}q\1(" + items + "u", part);  // QINCo2's root within itself
  items.clear();
  for (int i = 0; i < 30'000; ++i) items += text(std::to_string(i)) + "h\1";
  const std::string codebook = text("codebook0.weight") + tensor(integer(4) + integer(4), integer(4) + integer(1));
  hostile.pickle_refused(dict(codebook) + dict(text("_metadata") + "}q\1(" + items + "u") + "b", part);
  items.clear();
  for (int i = 0; i < 60'000; ++i) items += text(std::to_string(i)) + "N";
  const std::string child = global("torch.nn.modules.container", "Sequential") + ")\x81" + dict(items) + "bq\1" + "0";
  items.clear();
  for (int i = 0; i < 60'000; ++i) items += text(std::to_string(i)) + "h\1";
  hostile.pickle_refused(child + module("Sequential", "", items), part);
  CHECK((std::clock() - start) / CLOCKS_PER_SEC < 20);  // CPU time: 1 s; minutes without a budget
}

TEST_CASE("hostile torch files: tensors whose sizes, strides or storages lie") {
  const Hostile hostile;
  const auto refused = [&](const std::string& value, const char* part) {
    hostile.pickle_refused(one_tensor(value), part);
  };
  const std::string one = integer(1), four = integer(4), huge = integer(INT64_MAX), minus = integer(-1);
  const std::string nan = std::string("G\x7f\xf8\0\0\0\0\0\0", 9);
  refused(tensor(nan + four, four + one), "something else than integers");
  refused(tensor(four + four, nan + one), "something else than integers");
  refused(tensor("N" + four, four + one), "something else than integers");
  refused(tensor(minus + four, four + one), "-1");
  refused(tensor(four + four, minus + one), "-1");
  refused(tensor(four + four, four), "2 sizes, 1 strides");
  refused(tensor(integer(5) + four, four + one), "20 elements in a storage of 16");
  refused(tensor(four + four, integer(5) + one), "element 18");
  refused(tensor(four + four, four + one, 1), "element 16");
  refused(tensor(four + four, four + one, -1), "offset");
  refused(tensor(four + four, four + one, INT64_MAX), "overflows");
  refused(tensor(four + four, huge + one), "overflows");
  refused(tensor(huge + huge, one + one), "overflows");
  refused(tensor(huge + one, integer(0) + one), "elements in a storage");
  refused(tensor(repeat(one, 9), repeat(one, 9)), "9 dimensions");
  refused(tensor(four + four, four + one, 0, 17), "64 bytes, expected 68");
  refused(tensor(four + four, four + one, 0, INT64_MAX), "overflows");
  refused(tensor(four + four, four + one, 0, -16), "malformed");
  refused(tensor(four + four, four + one, 0, 16, "DoubleStorage"), "64 bytes, expected 128");
  refused(tensor(four + four, four + one, 0, 64, "BoolStorage"), "torch.BoolStorage");
  refused(tensor(four + four, four + one, 0, 16, "FloatStorage", "1"), "not in the file");
  refused(tensor(four + four, four + one, 0, 16, "FloatStorage", "../data.pkl"), "not in the file");
  refused(global("torch._utils", "_rebuild_tensor_v2") + ")R", "arguments");
  refused(global("torch._utils", "_rebuild_tensor_v2") + tuple("NNNN") + "R", "malformed");
  refused(global("torch._utils", "_rebuild_parameter") + tuple("N") + "R", "not a plain tensor");
  hostile.pickle_refused(dict(text("codebook0.weight") + tensor(four + four, four + one) + text("x") +
                              tensor(one, one, 0, 16, "IntStorage")),
                         "as other");
  const std::string good = one_tensor(tensor(four + four, four + one));
  hostile.refused(archive({{"m/data.pkl", pickle(good)}, {.name = "m/data/0", .data = std::string(64, 'x'), .crc = 7}}),
                  "damaged");
}

TEST_CASE("hostile torch files: a db_scale that no float32 holds") {
  const Hostile hostile;
  const std::string codebook = text("codebook0.weight") + tensor(integer(4) + integer(4), integer(4) + integer(1));
  const auto real = [](uint64_t bits) {  // as BINFLOAT writes it
    std::string bytes = "G";
    for (int shift = 56; shift >= 0; shift -= 8) bytes += static_cast<char>(bits >> shift);
    return bytes;
  };
  for (const double scale : {1e300, 1e-300, -1e-300, 0.0, -1.0, static_cast<double>(INFINITY), -1e300})
    hostile.pickle_refused(dict(codebook + text("db_scale") + real(std::bit_cast<uint64_t>(scale))),
                           fmt::format("db_scale: expected a finite float32 above 0, found {}", scale));
  const std::string one = tuple(integer(1));
  const auto array = [&](const std::string& shape, const std::string& data) {
    return global("numpy.core.multiarray", "_reconstruct") + tuple(global("numpy", "ndarray")) + "R" +
           tuple(integer(1) + shape + global("numpy", "dtype") + tuple(text("f4")) + "R\x89" + data) + "b";
  };
  const auto encoded = [](const std::string& content, const char* encoding) {
    return global("_codecs", "encode") + tuple(text(content) + text(encoding)) + "R";
  };
  const std::string big = std::string("\x8a\x09", 2) + std::string(9, '\x7f');  // of 72 bits
  for (const std::string& scale :
       {text("2.5"), big, array(one, encoded("abcd", "rot13")),
        array(one, encoded("\xe2\x82\xac"
                           "abc",
                           "latin1")),
        array(one, encoded("abc\xc3", "latin1")), array(one, encoded("abc", "latin1")),
        array(tuple(integer(2)), encoded("abcd", "latin1")), array("N", encoded("abcd", "latin1")), array(one, "N"),
        global("numpy.core.multiarray", "_reconstruct") + ")R", global("numpy._core.numeric", "_frombuffer") + ")R"})
    hostile.pickle_refused(dict(codebook + text("db_scale") + scale), "db_scale: expected a number");
  const auto carried = [&](const std::string& scale) {  // as a state dict's _metadata
    return dict(codebook) + dict(text("_metadata") + dict(text("") + dict(text("db_scale") + scale))) + "b";
  };
  for (const char* scale : {"", "2.5x", " 2.5", "1e99", "0x2"})
    hostile.pickle_refused(carried(text(scale)), "db_scale: expected a number");
  for (const char* scale : {"0", "-2.5", "nan", "inf"})
    hostile.pickle_refused(carried(text(scale)), "db_scale: expected a finite float32 above 0");
  for (const std::string& scale : {text("2.5"), real(std::bit_cast<uint64_t>(2.5))}) {
    hostile.write(torch_file(pickle(carried(scale))));
    CHECK(read_model_file(hostile.path()).metadata.at("db_scale") == "2.5");
  }
}

TEST_CASE("hostile torch files: archives that lie") {
  const Hostile hostile;
  const std::string good = pickle("}");
  hostile.refused(archive({{.name = "m/data.pkl", .data = good, .method = 8}}), "compressed");
  hostile.refused(archive({{.name = "m/data.pkl", .data = good, .flags = 1}}), "encrypted");
  hostile.refused(archive({{.name = "m/data.pkl", .data = good, .listed_size = 3, .local_size = 4}}), "3 bytes");
  hostile.refused(archive({{.name = "m/data.pkl", .data = good, .listed_size = 0x7fffffff, .local_size = 0x7fffffff}}),
                  "overlap");
  hostile.refused(archive({{.name = "m/data.pkl", .data = good, .listed_offset = 0x7fffffff}}), "leaves the file");
  hostile.refused(archive({{.name = "m/data.pkl", .data = good, .listed_offset = 9}}), "no header");
  hostile.refused(archive({{.name = "m/data.pkl", .data = good, .local_name = "m/atad.pkl"}}), "another name");
  hostile.refused(archive({{"m/data.pkl", good}, {"m/data.pkl", good}}), "two entries");
  hostile.refused(archive({{"m/data.pkl", good}, {.name = "m/data.pkl", .data = "", .listed_offset = 0}}), "bytes");
  hostile.refused(archive({{"m/data.pkl", good}, {"n/data.pkl", good}}), "more than one data.pkl");
  hostile.refused(archive({{"m/data.pkl", good}}, 1), "entries");
  hostile.refused(archive({{"m/data.pkl", good}}, 0xfffd), "entries");
  hostile.refused(archive({{"m/data.pkl", good}}, 0xfffe), "zip64");
  hostile.refused(archive({{"data.pkl", good}}), "without data.pkl");
  hostile.refused(archive({{"m/data.pkl", good}, {"m/constants.pkl", good}}), "TorchScript");
  hostile.refused(archive({{"m/data.pkl", good}, {"m/byteorder", "big"}}), "big");
  // The second entry's data is the first entry, header and all.
  hostile.refused(archive({{.name = "m/data.pkl", .data = good, .listed_size = 60, .local_size = 60},
                           {.name = "m/data/0", .data = "y"}}),
                  "overlap");
  hostile.refused(archive({{"m/data.pkl", good}}) + "x", "no end record");
  hostile.refused("PK\x03\x04", "too few");
}

TEST_CASE("hostile torch files: a directory that does not lie right before the record of its end") {
  const Hostile hostile;
  const std::string one = archive({{"m/data.pkl", pickle("}")}});
  hostile.refused(one + one, "the directory ends at");
  write_torch_file(hostile.path(), {"", {}, {}});  // with zip64: ends with records of 56, 20 and 22 bytes
  std::ifstream file(hostile.path(), std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(file), {}};
  const size_t record = good.size() - 98;
  hostile.refused(good, "no tensor 'codebook0.weight'");
  std::string bytes = good;
  bytes[record + 4] = 45;  // the record's size
  hostile.refused(bytes, "does not end at its locator");
  bytes = good;
  bytes.insert(record, 1, 'x');
  hostile.refused(bytes, "no zip64 end record");
  ++bytes[record + 1 + 56 + 8];  // where the locator says that the record is
  hostile.refused(bytes, "the directory ends at");
}

TEST_CASE("hostile torch files: truncated anywhere, or with any byte changed") {
  const Hostile hostile;
  const std::string golden = std::string(QINCO_SOURCE_DIR) + "/tests/golden/torch/qinco_old.pt";
  std::ifstream file(golden, std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(file), {}};
  REQUIRE(good.size() > 10'000);
  for (size_t kept = 4; kept < good.size(); kept += kept < 200 || kept + 200 > good.size() ? 1 : 97)
    hostile.refused(good.substr(0, kept), "");
  Random random(9);
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = good;
    const uint64_t at = 4 + random.below(good.size() - 4);
    bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1 + random.below(255)));
    hostile.write(bytes);
    try {
      load_model(hostile.path());
      ++accepted;  // a byte of padding or of an unused field
    } catch (const Error& error) {
      CHECK(std::string(error.what()).rfind(hostile.path() + ": ", 0) == 0);
    }
  }
  CHECK(accepted < 1500);  // the checksums see the others
}
