"""Kinds of arms of `merge` that search or learn; see `merge_kinds`."""
from experiments import merge_carry
from experiments import merge_kinds
from experiments import merge_learn
from experiments import merge_route
from experiments import merge_scene
from experiments import merge_search
from kt_jax import procedures

evolve, flow = merge_search.evolve, merge_search.flow
learn, fit = merge_learn.learn, merge_learn.fit
patch, swap = merge_carry.patch, merge_carry.swap
route, singular = merge_route.route, merge_learn.singular


def greedy_soup(config, arm, scene) -> merge_kinds.Made:
  """The mean of those experts that help on the tasks' validation data."""
  del config
  experts = [scene.experts[name] for name in arm.experts]
  def score(model):
    return merge_scene.pooled(scene.validation(model, arm.tasks), scene,
                              'validation')
  soup = procedures.greedy_soup([(e.params, e.stats) for e in experts], score)
  return merge_kinds.of_model(scene, soup.params,
                              dict(members=float(len(soup.members))))
