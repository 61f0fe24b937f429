// Ctrl-C and SIGTERM: during training a checkpoint, a command that goes on, and the very losses of an unbroken run;
// while a model is written nothing.
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include "tensor/create.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

using std::chrono::milliseconds;

constexpr int kEpochs = 30;

Arguments training(const Workspace& space, const std::string& model) {
  return with(with(space.train(kEpochs), "--model", model), "--batch_size", "4");
}

/// Starts training, stops it by `signal` a moment after it printed `text`, and checks what it says.
void stop_training(const Arguments& arguments, const std::string& checkpoint, int signal, const std::string& text) {
  Process process(arguments);
  process.wait_for_output(text);
  std::this_thread::sleep_for(milliseconds(5));
  process.send(signal);
  std::this_thread::sleep_for(milliseconds(1));  // until it is delivered: one that waits swallows its like
  process.send(signal);  // of SIGHUP the shell sends one, the system another; `timeout` sends two
  const Outcome outcome = process.finish();
  CAPTURE(outcome.err);
  CAPTURE(outcome.out);
  REQUIRE(outcome.code == 128 + signal);
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK(contains(outcome.err, checkpoint));
  CHECK(contains(outcome.err, "--resume"));
  CHECK(std::filesystem::exists(checkpoint));
}

/// Losses and errors of all epochs, which must be equal bit for bit (JSON holds doubles exactly).
Json losses(const Json& results) {
  Json list = Json::array();
  for (const Json& epoch : results.at("epochs"))
    list.push_back({epoch.at("epoch"), epoch.at("lr"), epoch.at("train_loss"), epoch.at("val_mse")});
  return list;
}

TEST_CASE("interrupt: a run stopped three times and resumed has the losses and the model of an unbroken one") {
  const Workspace space;
  const std::string whole = space.file("whole.safetensors"), broken = space.file("broken.safetensors");
  const std::string checkpoint = broken + ".checkpoint";
  const Json expected = results_of(training(space, whole));
  REQUIRE(expected.at("epochs").size() == kEpochs);

  Arguments arguments = training(space, broken);
  stop_training(arguments, checkpoint, SIGINT, "epoch   2");
  arguments.push_back("--resume");
  stop_training(arguments, checkpoint, SIGTERM, "going on in epoch");
  stop_training(arguments, checkpoint, SIGHUP, "going on in epoch");
  const Json resumed = results_of(arguments);
  CHECK(losses(resumed) == losses(expected));
  CHECK(resumed.at("best_val_mse") == expected.at("best_val_mse"));
  CHECK(resumed.at("rq_val_mse") == expected.at("rq_val_mse"));
  CHECK(read_bytes(broken) == read_bytes(whole));
  CHECK_FALSE(std::filesystem::exists(checkpoint));
}

TEST_CASE("interrupt: a checkpoint is not overwritten by a new run, nor resumed with other options or data") {
  const Workspace space;
  const std::string model = space.file("m.safetensors"), checkpoint = model + ".checkpoint";
  const Arguments arguments = training(space, model);
  stop_training(arguments, checkpoint, SIGINT, "epoch   1");
  expect_error(space.path(), arguments, 1, {checkpoint, "--resume"});

  Arguments resume = arguments;
  resume.push_back("--resume");
  const Arguments elsewhere = with(with(resume, "--model", space.file("other")), "--checkpoint", checkpoint);
  expect_error(space.path(), elsewhere, 1, {space.file("other"), "expected the best model so far"});
  expect_error(space.path(), with(resume, "--M", "4"), 1, {"checkpoint", "M=4", "3"});
  Arguments ivf = with(resume, "--IVF_centroids", space.queries());
  ivf.push_back("--ivf");
  expect_error(space.path(), ivf, 1, {"checkpoint", "20 centroids", "found 0"});
  expect_error(space.path(), with(resume, "--batch_size", "32"), 1, {"checkpoint", "batch_size", "4", "32"});
  expect_error(space.path(), with(resume, "--precision", "fast"), 1, {"precision", "exact", "fast"});
  expect_error(space.path(), with(resume, "--beam_size", "2"), 1, {"beam_size", "made with 1", "found 2"});
  expect_error(space.path(), with(resume, "--nt", "500"), 1, {"checkpoint", "512", "500"});
  const Tensor other = space.base_vectors().clone();
  for (int64_t i = 0; i < other.numel(); ++i) other.data<float>()[i] += 1;
  write_vectors(space.file("other.fvecs"), other);
  expect_error(space.path(), with(resume, "--training_data", space.file("other.fvecs")), 1, {"checkpoint", "data"});
}

TEST_CASE("interrupt: IVF-QINCo goes on with the centroids it has, of --init_model too, and with no others") {
  const Workspace space;
  const std::string model = space.file("ivf.safetensors"), checkpoint = model + ".checkpoint";
  Arguments ivf = with(training(space, model), "--IVF_centroids", space.queries());
  ivf.push_back("--ivf");
  stop_training(ivf, checkpoint, SIGINT, "epoch   1");
  write_vectors(space.file("others.fvecs"), space.base_vectors().slice(0, 0, 20).clone());
  Arguments resume = ivf;
  resume.push_back("--resume");
  expect_error(space.path(), with(resume, "--IVF_centroids", space.file("others.fvecs")), 1,
               {checkpoint, "expected the centroids of", "others.fvecs"});
  stop_training(resume, checkpoint, SIGINT, "going on in epoch");
  std::filesystem::remove(checkpoint);
  Arguments tuned = with(training(space, model), "--init_model", model);
  stop_training(tuned, checkpoint, SIGINT, "epoch   1");
  tuned.push_back("--resume");
  stop_training(tuned, checkpoint, SIGINT, "going on in epoch");
}

TEST_CASE("interrupt: a part of PQ-QINCo that went on from a model is refused") {
  const Workspace space;
  const std::string model = space.file("m.safetensors"), part = model + ".sub0";
  const Tensor half = space.base_vectors().slice(1, 0, 4).contiguous();
  write_vectors(space.file("half.fvecs"), half);
  const Arguments begun = with(training(space, part), "--training_data", space.file("half.fvecs"));
  CHECK(run(with(begun, "--max_epochs", "1")).code == 0);
  stop_training(with(begun, "--init_model", part), part + ".checkpoint", SIGINT, "epoch   1");
  Arguments resume = with(training(space, model), "--nsub", "2");
  resume.push_back("--resume");
  expect_error(space.path(), resume, 1, {part + ".checkpoint", "--init_model"});
}

TEST_CASE("interrupt: a second signal, half a second later, ends what does not stop at once") {
  const Workspace space;
  const std::string fifo = space.file("fifo.fvecs");
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  const int end = ::open(fifo.c_str(), O_RDWR | O_CLOEXEC);  // nobody reads
  REQUIRE(end >= 0);
  write_npy(space.file("many.npy"), zeros({20'000, Workspace::kM}, DType::i32));
  Process process(with(with(space.decode(), "--i", space.file("many.npy")), "--o", fifo));
  const auto waiting = [&] {
    int bytes = 0;
    ioctl(end, FIONREAD, &bytes);
    return bytes > 0;
  };
  while (process.running() && !waiting()) std::this_thread::sleep_for(milliseconds(1));
  process.send(SIGTERM);
  std::this_thread::sleep_for(milliseconds(1));
  process.send(SIGTERM);
  std::this_thread::sleep_for(milliseconds(600));
  CHECK(process.running());
  process.send(SIGTERM);
  check_error(process.finish(), 128 + SIGTERM, {"qinco: stopped by a signal"});
  ::close(end);
}

TEST_CASE("interrupt: broken checkpoints are refused and kept") {
  const Workspace space;
  const std::string model = space.file("m.safetensors"), checkpoint = model + ".checkpoint";
  Arguments arguments = training(space, model);
  stop_training(arguments, checkpoint, SIGINT, "epoch   1");
  arguments.push_back("--resume");
  const std::string good = read_bytes(checkpoint);
  for (const std::string& bytes : {std::string(), good.substr(0, 50), good.substr(0, good.size() - 1), good + "x",
                                   read_bytes(space.model()), std::string(8, '\xff') + good.substr(8)}) {
    write_bytes(checkpoint, bytes);
    expect_error(space.path(), arguments, 1, {checkpoint});
    CHECK(read_bytes(checkpoint) == bytes);
  }
  std::filesystem::remove(checkpoint);
  expect_error(space.path(), arguments, 1, {checkpoint, "cannot open"});
}

TEST_CASE("interrupt: a conversion of a model that is stopped leaves no file") {
  const Workspace space;
  const std::string model = space.file("large.safetensors");
  write_hollow_model(model, 1024);
  const std::set<std::string> before = listing(space.path());
  const auto stopped_by = [&](int signal, const std::string& out) {
    CAPTURE(signal);
    CAPTURE(out);
    Process process({"convert", model, space.file(out)});
    while (process.running() && listing(space.path()) == before) std::this_thread::sleep_for(milliseconds(1));
    process.send(signal);
    const Outcome outcome = process.finish();
    CHECK(listing(space.path()) == before);
    return outcome;
  };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP})
    for (const char* out : {"out.pt", "out.safetensors"})
      check_error(stopped_by(signal, out), 128 + signal, {"stopped by a signal"});
  check_error(stopped_by(SIGBUS, "out.pt"), 1, {"became shorter"});  // of a mapped file that was cut
  const Outcome unread = stopped_by(SIGPIPE, "out.pt");
  CHECK(unread.code == 128 + SIGPIPE);
  CHECK(unread.err.empty());
}

}  // namespace
}  // namespace qinco::tests
