"""Teachers: networks whose predictions and features the step reads, without gradient."""

from hpm_jax.teachers.frozen import Frozen as Frozen
from hpm_jax.teachers.staged import Staged as Staged
from hpm_jax.teachers.teacher import MovingAverage as MovingAverage
from hpm_jax.teachers.teacher import NoTeacher as NoTeacher
from hpm_jax.teachers.teacher import Teacher as Teacher
