// `--device cuda` through the real binary: every subcommand gives what it gives on the CPU.
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

// Reads a key such as "recall/10".
double number(const Json& results, const std::string& pointer) {
  return results.at(Json::json_pointer("/" + pointer)).get<double>();
}

// Both devices' results of the same arguments agree in these keys to `tolerance`, relative.
void check_agree(const Arguments& arguments, Device device, std::initializer_list<const char*> keys, double tolerance) {
  const Json expected = results_of(arguments), found = results_of(with(arguments, "--device", device.name()));
  for (const char* key : keys)
    CHECK_MESSAGE(number(found, key) == doctest::Approx(number(expected, key)).epsilon(tolerance), arguments.front()
                                                                                                       << ": " << key);
}

TEST_CASE("device: encode, decode and eval give the CPU's codes, vectors and table") {
  for (const Device device : test_devices()) {
    const Workspace space;
    check_agree(space.encode(), device, {"n", "mse"}, 1e-5);
    const Tensor there = read_npy(space.file("out.npy")).clone();
    CHECK(run(space.encode()).code == 0);
    size_t differing = 0;
    const Tensor here = read_npy(space.file("out.npy"));
    for (int64_t i = 0; i < here.numel(); ++i) differing += here.data<int32_t>()[i] != there.data<int32_t>()[i];
    CHECK(differing <= 3);  // a near tie, and what follows from it
    CHECK(run(space.decode()).code == 0);
    const Tensor decoded = read_all(space.file("out.fvecs")).clone();
    CHECK(run(with(space.decode(), "--device", device.name())).code == 0);
    CHECK(worst_difference(read_all(space.file("out.fvecs")), decoded) <= 1e-5);
    check_agree(space.eval(), device, {"mse", "recall/1", "recall/10", "recall/100"}, 1e-5);
  }
}

TEST_CASE("device: training there ends where it ends on the CPU") {
  for (const Device device : test_devices()) {
    const Workspace space;
    check_agree(space.train(2), device, {"rq_val_mse", "best_val_mse", "epochs/0/train_loss"}, 0.02);
    check_agree(with(with(space.train(1), "--nsub", "2"), "--K", "8"), device, {"best_val_mse"}, 0.02);
  }
}

TEST_CASE("device: kmeans, baseline and two-stage search agree with the CPU") {
  for (const Device device : test_devices()) {
    const Workspace space;
    check_agree({"kmeans", "--training_data", space.base(), "--k", "10", "--o", space.file("c.npy")}, device, {"mse"},
                0.01);
    for (const char* method : {"rq", "pq", "opq"})
      check_agree(with(space.baseline(), "--method", method), device, {"mse"}, 0.02);
    check_agree(with(space.search(), "--nshort", "50"), device,
                {"mse", "mse_fixed", "points/0/recall/10", "points/0/recall_before/10"}, 0.02);
  }
}

TEST_CASE("device: an IVF index is built, added to and searched as on the CPU") {
  for (const Device device : test_devices()) {
    const Workspace space;
    const std::string model = space.file("ivf.safetensors"), centroids = space.file("centroids.fvecs");
    REQUIRE(run({"kmeans", "--training_data", space.base(), "--k", "12", "--o", centroids}).code == 0);
    Arguments training = with(with(space.train(1), "--model", model), "--IVF_centroids", centroids);
    training.push_back("--ivf");
    REQUIRE(run(with(training, "--device", device.name())).code == 0);
    std::vector<double> recalls;
    for (const std::string& where : {std::string("cpu"), device.name()}) {
      const std::string index = space.file(where + ".index");
      const auto there = [&](const Arguments& arguments) { return with(arguments, "--device", where); };
      REQUIRE(run(there({"index", "build", "--model", model, "--training_data", space.base(), "--o", index})).code ==
              0);
      REQUIRE(run(there({"index", "add", "--index", index, "--model", model, "--i", space.base()})).code == 0);
      const Json found =
          results_of(there({"index", "search", "--index", index, "--model", model, "--queries", space.queries(),
                            "--groundtruth", space.groundtruth(), "--nprobe", "12", "--nshort", "100"}));
      recalls.push_back(number(found, "points/0/recall/10"));
    }
    CHECK(std::abs(recalls[0] - recalls[1]) <= 0.051);  // of 20 queries, at most one
  }
}

}  // namespace
}  // namespace qinco::tests
