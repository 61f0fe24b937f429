// Fits a noisy sine with a small network: define, train, save.
#include <cmath>
#include <fmt/core.h>

#include "autograd/nn/layers.h"
#include "autograd/optim/optimizer.h"

using namespace qinco;

int main() {
  Random random(1);
  nn::Sequential net(nn::Linear(1, 64, random), nn::Tanh(), nn::Linear(64, 64, random), nn::Tanh(),
                     nn::Linear(64, 1, random));
  optim::Adam adam(net.parameters(), {.lr = 3e-3});

  Tensor x = Tensor::empty({512, 1}), y = Tensor::empty({512, 1}), noise = Tensor::empty({512, 1});
  random.uniform(x, -3, 3);
  random.normal(noise, 0, 0.1);
  for (int i = 0; i < 512; ++i) y.data<float>()[i] = std::sin(2 * x.data<float>()[i]) + noise.data<float>()[i];

  for (int step = 0; step <= 2000; ++step) {
    const autograd::Variable loss = autograd::mse_loss(net(x), y);
    adam.zero_grad();
    loss.backward();
    adam.step();
    if (step % 400 == 0) fmt::print("step {:4}  loss {:.4f}\n", step, loss.item());
  }
  nn::save(net, "sine.safetensors");
}
