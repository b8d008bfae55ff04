"""Whether majority kernels pay: methods on Fashion-MNIST, tuned alike and compared in pairs."""
