"""Teachers: whose predictions and features the step may ask for, without gradient."""

from hpm_jax.teachers.teacher import MovingAverage as MovingAverage
from hpm_jax.teachers.teacher import NoTeacher as NoTeacher
from hpm_jax.teachers.teacher import Teacher as Teacher
