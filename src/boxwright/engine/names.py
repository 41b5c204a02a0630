"""Names of containers: what may be one, and random ones (an adjective and the surname of someone worth knowing)."""

import random
import re
from collections.abc import Callable

from boxwright.errdefs import InvalidParameter

_ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_VALID = re.compile(rf"/?{_ALLOWED}+", re.ASCII)

_ADJECTIVES = """
able agile airy alert ample apt artful avid basic bold brave breezy brief bright brisk bubbly calm candid careful
chatty cheery civil clean clear clever comfy cool cosmic cosy crafty crisp curious dapper daring dashing deft
devoted driven dreamy eager early earnest easy elated exact fair fancy fearless festive fine firm fit fleet fluent
fond frank free fresh friendly funny gentle giddy glad gleeful golden graceful grand great handy happy hardy hearty
helpful honest hopeful humble ideal jaunty jolly jovial joyful keen kind lasting lively loyal lucid lucky mellow
merry mighty mindful modest neat nifty nimble noble novel open patient peaceful plucky poised polite prime prompt
proud pure quaint quick quiet radiant rapid ready relaxed rosy rugged serene sharp shiny silent simple sincere sleek
smart smooth snappy snug solid spry stable steady stellar sturdy subtle sunny super swift tactful tender tidy
tranquil trim true trusty upbeat valiant vivid warm wise witty worthy zany zesty
"""

_SURNAMES = """
abel adams aho alembert ampere archimedes aristarchus avogadro backus banach bardeen bell bernoulli bessel bhabha
bohr boltzmann bolyai bombelli boole born bose boyle brahe brahmagupta bush cantor cardano carson cauchy cavendish
cerf chandrasekhar chatelet church clarke codd copernicus corbato coulomb cray curie dahl darwin descartes dijkstra
diophantus dirac doppler earhart eckert edison ehrenfest einstein elion engelbart eratosthenes erdos euclid euler
faraday fermat fermi feynman fibonacci fleming floyd fourier franklin galileo galois galvani gauss germain gibbs
goedel goodall gray haber hadamard hamilton hamming harvey hawking heisenberg helmholtz henry herschel hertz hilbert
hipparchus hoare hodgkin hooke hopper hubble huffman huygens hypatia jacobi johnson joliot joule kapitsa karp kay
kepler kernighan khayyam kildall kirchhoff klein knuth kolmogorov lagrange lamarr lamport landau laplace lavoisier
leavitt lebesgue legendre leibniz lemaitre lie linnaeus liskov lorentz lovelace mandelbrot marconi markov maxwell
mayer mccarthy mcclintock meitner mendel mendeleev mercator michelson milner minsky mirzakhani moebius moore morse
napier nash naur newton nobel noether nyquist oersted ohm oppenheimer oresme pascal pasteur pauli pauling payne
peano perlman planck poincare poisson ptolemy pythagoras rabin raman ramanujan riemann ritchie roentgen rubin
russell rutherford sagan salk schroedinger shannon sinoussi snell somerville sutherland tarski tesla thales thompson
torvalds turing vaughan viete volta wallis watt weierstrass wiles wilkes wirth wozniak wright wu yalow yukawa zuse
"""

ADJECTIVES = _ADJECTIVES.split()
SURNAMES = _SURNAMES.split()


def clean(name: str) -> str:
    """The name without its leading "/"; raises InvalidParameter with Docker's text when it cannot be one."""
    if not _VALID.fullmatch(name):
        raise InvalidParameter(f"Invalid container name ({name}), only {_ALLOWED} are allowed")
    return name.removeprefix("/")


def generate(taken: Callable[[str], bool]) -> str:
    """A random name for which `taken` is false; digits are added when the lists run out."""
    digits = 0
    while True:
        name = f"{random.choice(ADJECTIVES)}_{random.choice(SURNAMES)}"
        if digits:
            name += str(random.randrange(10**digits))
        if not taken(name):
            return name
        digits = min(digits + 1, 9)
