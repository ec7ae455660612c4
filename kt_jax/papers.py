"""The papers that kt_jax implements, or parts of them; data only.

The `References:` of a docstring and the folders of `configs/` name a paper by
its key. `python -m kt_jax.launch.results` writes docs/papers.md from this file.
"""
from typing import NamedTuple

STATUS = {
    'formula': 'implemented and documented',
    'checked': 'agrees with an independent implementation or with a theorem',
    'run': 'its config ran end to end on real data',
    'shown': 'a claim of the paper held in a small run of its config',
    'replicated': "the paper's own number was reached within its margin, at "
                  "the paper's scale",
}


class Paper(NamedTuple):
  """A paper, and what kt_jax has of it."""
  title: str
  year: int
  arxiv: str  # identifier; '' if it is not on arXiv
  functions: tuple[str, ...]  # public names, such as 'losses.kd'
  configs: tuple[str, ...] = ()  # paths from the root of the repository
  status: str = 'formula'  # a key of STATUS, of the least advanced function
  # Departures and names; what was measured is in the JSON beside the config.
  note: str = ''


PAPERS = {
    'roth2024fantastic': Paper(
        'Fantastic Gains and Where to Find Them: On the Existence and '
        'Prospect of General Knowledge Transfer between Any Pretrained Model',
        2024, '2310.17653',
        ('modules.TeacherMixture', 'losses.kd', 'losses.partitioned_kd',
         'scores.rho_positive', 'scores.rho_negative', 'scores.class_flips',
         'scores.areas_of_expertise', 'scores.knowledge_gain',
         'scores.knowledge_loss', 'scores.transfer_rate', 'merge.linear'),
        ('configs/roth2024fantastic/digits.py',
         'configs/roth2024fantastic/mnist.py',
         'configs/roth2024fantastic/cifar10.py',
         'configs/roth2024fantastic/imagenet.py'), 'shown',
        'XE-KL is `losses.cross_entropy` + `losses.kd`; MCL is `merge.linear`'),
    'hinton2015kd': Paper(
        'Distilling the Knowledge in a Neural Network',
        2015, '1503.02531',
        ('losses.kd',),
        ('configs/hinton2015kd/cifar10.py',), 'shown'),
    'wortsman2022soups': Paper(
        'Model soups: averaging weights of multiple fine-tuned models '
        'improves accuracy without increasing inference time',
        2022, '2203.05482',
        ('merge.linear', 'procedures.greedy_soup'),
        ('configs/wortsman2022soups/mnist.py',), 'shown'),
    'guo2017calibration': Paper(
        'On Calibration of Modern Neural Networks',
        2017, '1706.04599',
        ('train.classification_metrics',)),
    'zhang2018mixup': Paper(
        'mixup: Beyond Empirical Risk Minimization',
        2018, '1710.09412',
        ('data.mixup',)),
    'yun2019cutmix': Paper(
        'CutMix: Regularization Strategy to Train Strong Classifiers with '
        'Localizable Features',
        2019, '1905.04899',
        ('data.cutmix',)),
    'he2016deep': Paper(
        'Deep Residual Learning for Image Recognition',
        2016, '1512.03385',
        ('models.resnet18', 'models.resnet34', 'models.resnet50',
         'models.resnet8', 'models.resnet14', 'models.resnet20',
         'models.resnet32', 'models.resnet44', 'models.resnet56',
         'models.resnet110')),
    'zagoruyko2016wide': Paper(
        'Wide Residual Networks',
        2016, '1605.07146',
        ('models.wrn_16_1', 'models.wrn_16_2', 'models.wrn_40_1',
         'models.wrn_40_2', 'models.wrn_28_10')),
    'simonyan2015vgg': Paper(
        'Very Deep Convolutional Networks for Large-Scale Image Recognition',
        2015, '1409.1556',
        ('models.vgg8', 'models.vgg11', 'models.vgg13', 'models.vgg16',
         'models.vgg19')),
    'sandler2018mobilenetv2': Paper(
        'MobileNetV2: Inverted Residuals and Linear Bottlenecks',
        2018, '1801.04381',
        ('models.mobilenet_v2', 'models.mobilenet_v2_half')),
    'dosovitskiy2021vit': Paper(
        'An Image is Worth 16x16 Words: Transformers for Image Recognition at'
        ' Scale',
        2021, '2010.11929',
        ('models.vit_tiny', 'models.vit_small', 'models.vit_base')),
    'tolstikhin2021mixer': Paper(
        'MLP-Mixer: An all-MLP Architecture for Vision',
        2021, '2105.01601',
        ('models.mixer_small', 'models.mixer_base')),
    'furlanello2018born': Paper(
        'Born Again Neural Networks',
        2018, '1805.04770',
        ('losses.cwtm', 'losses.dkpp'),
        ('configs/furlanello2018born/digits.py',), 'run',
        'a generation is `losses.kd` at temperature 1 from the previous one'),
    'yuan2020tfkd': Paper(
        'Revisiting Knowledge Distillation via Label Smoothing Regularization',
        2020, '1909.11723',
        ('losses.label_smoothing_kd',),
        (), 'checked',
        'Tf-KD_reg; Tf-KD_self is `losses.kd` from a network like the student'),
    'zhao2022dkd': Paper(
        'Decoupled Knowledge Distillation',
        2022, '2203.08679',
        ('losses.dkd',),
        ('configs/zhao2022dkd/cifar10.py',), 'run'),
    'huang2022dist': Paper(
        'Knowledge Distillation from A Stronger Teacher',
        2022, '2205.10536',
        ('losses.dist',),
        ('configs/huang2022dist/cifar10.py',), 'run'),
    'amara2022bdkd': Paper(
        'BD-KD: Balancing the Divergences for Online Knowledge Distillation',
        2022, '2212.12965',
        ('losses.bd_kd',),
        ('configs/amara2022bdkd/mnist.py',), 'run',
        'the direction of the gate is our reading'),
    'yang2023nkd': Paper(
        'From Knowledge Distillation to Self-Knowledge Distillation: A '
        'Unified Approach with Normalized Loss and Customized Soft Labels',
        2023, '2303.13005',
        ('losses.nkd', 'losses.uskd', 'modules.WeakHead'),
        (), 'checked'),
    'jin2023mlkd': Paper(
        'Multi-Level Logit Distillation',
        2023, '',
        ('losses.mlkd',),
        (), 'checked',
        'CVPR 2023'),
    'li2023ctkd': Paper(
        'Curriculum Temperature for Knowledge Distillation',
        2023, '2211.16231',
        ('modules.CurriculumTemperature',),
        (), 'checked'),
    'agarwal2024gkd': Paper(
        'On-Policy Distillation of Language Models: Learning from '
        'Self-Generated Mistakes',
        2024, '2306.13649',
        ('losses.jsd',),
        ('configs/agarwal2024gkd/shakespeare.py',), 'run',
        '`sampling.source` is student or mixed'),
    'gu2024minillm': Paper(
        'MiniLLM: Knowledge Distillation of Large Language Models',
        2024, '2306.08543',
        ('losses.reverse_kl', 'losses.minillm'),
        (), 'checked',
        'an arm of configs/agarwal2024gkd; the gradient is checked by '
        'enumerating whole sequences'),
    'ko2024distillm': Paper(
        'DistiLLM: Towards Streamlined Distillation for Large Language Models',
        2024, '2402.03898',
        ('losses.skew_kl', 'losses.skew_reverse_kl'),
        ('configs/ko2024distillm/strings.py',), 'shown',
        'without the replay of old samples'),
    'wen2023fdivergence': Paper(
        'f-Divergence Minimization for Sequence-Level Knowledge Distillation',
        2023, '2307.15190',
        ('losses.total_variation',),
        (), 'checked',
        'the divergence of a single distribution'),
    'zhao2023limits': Paper(
        'Towards the Fundamental Limits of Knowledge Transfer over Finite '
        'Domains',
        2023, '2310.07838',
        ('losses.squared_error_logit', 'losses.total_variation',
         'procedures.ce_sgl', 'procedures.ce_ptl', 'procedures.sel_ptl',
         'procedures.ce_ful', 'procedures.sample',
         'procedures.total_variation_risk'),
        ('configs/zhao2023limits/tabular.py',), 'shown',
        'one fixed instance, not the worst case of the theorems'),
    'sun2024logit': Paper(
        'Logit Standardization in Knowledge Distillation',
        2024, '2403.01427',
        ('losses.logit_standardized_kd',),
        (), 'checked'),
    'lee2024multiaspect': Paper(
        'Multi-aspect Knowledge Distillation with Large Language Model',
        2025, '2501.13341',
        ('modules.AspectHead', 'losses.multi_aspect'),
        ('configs/lee2024multiaspect/digits.py',), 'run',
        'answers are attributes computed from the image, not by a language '
        'model'),
    'romero2015fitnets': Paper(
        'FitNets: Hints for Thin Deep Nets',
        2015, '1412.6550',
        ('modules.Projector', 'losses.hint'),
        (), 'checked'),
    'zagoruyko2017attention': Paper(
        'Paying More Attention to Attention: Improving the Performance of '
        'Convolutional Neural Networks via Attention Transfer',
        2017, '1612.03928',
        ('losses.attention_transfer',),
        (), 'checked'),
    'huang2017nst': Paper(
        'Like What You Like: Knowledge Distill via Neuron Selectivity '
        'Transfer',
        2017, '1707.01219',
        ('losses.nst',),
        (), 'checked'),
    'yim2017fsp': Paper(
        'A Gift from Knowledge Distillation: Fast Optimization, Network '
        'Minimization and Transfer Learning',
        2017, '',
        ('losses.fsp',),
        (), 'checked'),
    'kim2018factor': Paper(
        'Paraphrasing Complex Network: Network Compression via Factor '
        'Transfer',
        2018, '1802.04977',
        ('modules.FactorEncoder', 'losses.factor_transfer'),
        (), 'checked'),
    'heo2019ab': Paper(
        'Knowledge Transfer via Distillation of Activation Boundaries Formed '
        'by Hidden Neurons',
        2019, '1811.03233',
        ('modules.Projector', 'losses.activation_boundary'),
        (), 'checked',
        'the connector is `modules.Projector` with norm=True'),
    'ahn2019vid': Paper(
        'Variational Information Distillation for Knowledge Transfer',
        2019, '1904.05835',
        ('modules.VariationalRegressor', 'losses.vid'),
        (), 'checked'),
    'heo2019overhaul': Paper(
        'A Comprehensive Overhaul of Feature Distillation',
        2019, '1904.01866',
        ('modules.OverhaulConnector', 'losses.overhaul'),
        (), 'checked',
        'connector and margin are in `modules.OverhaulConnector`'),
    'chen2021review': Paper(
        'Distilling Knowledge via Knowledge Review',
        2021, '2104.09044',
        ('modules.ReviewFusion', 'losses.review_kd'),
        (), 'checked',
        'the attention-based fusion is `modules.ReviewFusion`'),
    'guo2023catkd': Paper(
        'Class Attention Transfer Based Knowledge Distillation',
        2023, '2304.12777',
        ('losses.class_attention',),
        ('configs/guo2023catkd/cifar10.py',), 'shown',
        'CAT is `normalize=True`'),
    'xu2022vitpose': Paper(
        'ViTPose: Simple Vision Transformer Baselines for Human Pose '
        'Estimation',
        2022, '2204.12484',
        ('losses.knowledge_token',),
        (), 'checked',
        'the token is `knowledge_tokens` of the ViT models'),
    'park2019rkd': Paper(
        'Relational Knowledge Distillation',
        2019, '1904.05068',
        ('losses.rkd_distance', 'losses.rkd_angle'),
        ('configs/park2019rkd/cifar10.py',), 'shown'),
    'tung2019sp': Paper(
        'Similarity-Preserving Knowledge Distillation',
        2019, '1907.09682',
        ('losses.similarity_preserving',),
        ('configs/tung2019sp/cifar10.py',), 'shown'),
    'passalis2018pkt': Paper(
        'Learning Deep Representations with Probabilistic Knowledge Transfer',
        2018, '1803.10837',
        ('losses.pkt',),
        (), 'checked'),
    'peng2019cckd': Paper(
        'Correlation Congruence for Knowledge Distillation',
        2019, '1904.01802',
        ('losses.correlation_congruence',),
        (), 'checked'),
    'liu2021ickd': Paper(
        'Exploring Inter-Channel Correlation for Diversity-preserved '
        'Knowledge Distillation',
        2021, '2202.03680',
        ('losses.ickd',),
        (), 'checked',
        "scale and row norms as in the authors' code"),
    'kornblith2019cka': Paper(
        'Similarity of Neural Network Representations Revisited',
        2019, '1905.00414',
        ('losses.cka',),
        (), 'checked'),
    'nguyen2021wide': Paper(
        'Do Wide and Deep Networks Learn the Same Things? Uncovering How '
        'Neural Network Representations Vary with Width and Depth',
        2021, '2010.15327',
        ('losses.cka',),
        (), 'checked',
        'debiased CKA'),
    'tian2020crd': Paper(
        'Contrastive Representation Distillation',
        2020, '1910.10699',
        ('modules.ContrastiveMemory', 'modules.EmbeddingHead', 'losses.crd'),
        ('configs/tian2020crd/cifar10.py',), 'run',
        'the memory is `modules.ContrastiveMemory`'),
    'oord2018cpc': Paper(
        'Representation Learning with Contrastive Predictive Coding',
        2018, '1807.03748',
        ('losses.info_nce',),
        (), 'checked',
        'cosine similarity instead of the bilinear score'),
    'zhang2023trg': Paper(
        'Knowledge Distillation via Token-level Relationship Graph',
        2023, '2306.12442',
        ('modules.Scheduled', 'modules.TokenGraph', 'losses.token_graph'),
        ('configs/zhang2023trg/cifar10.py',), 'shown',
        'direction, scale and temperature of the parts are our reading, not '
        'confirmed by the text'),
    'liu2020skt': Paper(
        'Efficient Crowd Counting via Structured Knowledge Transfer',
        2020, '2003.10120',
        ('losses.intra_layer_pattern', 'losses.inter_layer_relation'),
        (), 'checked'),
    'chen2024cprd': Paper(
        'How to Make Cross Encoder a Good Teacher for Efficient Image-Text '
        'Retrieval?',
        2024, '2407.07479',
        ('losses.partial_ranking',),
        (), 'formula',
        'reconstructed from the abstract (the full text was not available); '
        'agrees with a loop over the same equation'),
    'gu2023crkd': Paper(
        'Class-relation Knowledge Distillation for Novel Class Discovery',
        2023, '2307.09158',
        ('losses.class_relation',),
        (), 'checked'),
    'rao2022pesf': Paper(
        'Parameter-Efficient and Student-Friendly Knowledge Distillation',
        2022, '2205.15308',
        ('modules.TeacherAdapter',),
        ('configs/rao2022pesf/digits.py',), 'shown',
        "starts at the unadapted teacher; the paper's objective, in which the "
        "student sees the adapted logits"),
    'hu2024tgeo': Paper(
        'Less or More From Teacher: Exploiting Trilateral Geometry For '
        'Knowledge Distillation',
        2024, '2312.15112',
        ('modules.SampleRatio',),
        ('configs/hu2024tgeo/digits.py',), 'shown',
        'class means of the teacher are running means over batches'),
    'nix2023hard': Paper(
        'HARD: Hard Augmentations for Robust Distillation',
        2023, '2305.14890',
        ('modules.AffineAugmentor',),
        ('configs/nix2023hard/digits.py',), 'shown',
        'the spatial augmentor; its distribution is ours, as no code was '
        'released'),
    'zhang2022camkd': Paper(
        'Confidence-Aware Multi-Teacher Knowledge Distillation',
        2022, '2201.00007',
        ('modules.TeacherMixture',),
        (), 'checked',
        "`how='confidence'`, for the logits; the weighted sum of divergences "
        "has the same gradient"),
    'borup2021teacher': Paper(
        'Even your Teacher Needs Guidance: Ground-Truth Targets Dampen '
        'Regularization Imposed by Self-Distillation',
        2021, '2102.13088',
        ('procedures.self_distillation_fit',
         'procedures.self_distillation_spectrum',
         'procedures.self_distillation_limit',
         'procedures.optimal_label_weight', 'procedures.kernel_ridge_path'),
        ('configs/borup2021teacher/digits.py',), 'shown',
        "tests reproduce the errors of the authors' toy example to five "
        "decimals, and the theorems to 1e-6"),
    'stanton2021really': Paper(
        'Does Knowledge Distillation Really Work?',
        2021, '2106.05945',
        ('scores.agreement', 'scores.fidelity'),
        (), 'checked'),
    'milanifard2016churn': Paper(
        'Launch and Iterate: Reducing Prediction Churn',
        2016, '',
        ('scores.churn',),
        (), 'checked'),
    'ilharco2022task': Paper(
        'Editing Models with Task Arithmetic',
        2022, '2212.04089',
        ('merge.task_arithmetic',),
        ('configs/ilharco2022task/negation.py',
         'configs/ilharco2022task/addition.py'), 'shown'),
    'yadav2023ties': Paper(
        'TIES-Merging: Resolving Interference When Merging Models',
        2023, '2306.01708',
        ('merge.ties', 'merge.whole_model_bounds'),
        ('configs/yadav2023ties/mnist.py',), 'shown'),
    'yu2023dare': Paper(
        'Language Models are Super Mario: Absorbing Abilities from Homologous '
        'Models as a Free Lunch',
        2023, '2311.03099',
        ('merge.dare',),
        (), 'checked',
        "agrees with mergekit 0.1.5 at `rescale='l1'`"),
    'deep2024della': Paper(
        'DELLA-Merging: Reducing Interference in Model Merging through '
        'Magnitude-Based Sampling',
        2024, '2406.11617',
        ('merge.della',),
        (), 'checked',
        "row ranks as in the authors' code"),
    'davari2023breadcrumbs': Paper(
        'Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks',
        2023, '2312.06795',
        ('merge.breadcrumbs',),
        ('configs/davari2023breadcrumbs/mnist.py',), 'run'),
    'matena2021fisher': Paper(
        'Merging Models with Fisher-Weighted Averaging',
        2021, '2111.09832',
        ('merge.fisher', 'stats.fisher'),
        ('configs/matena2021fisher/mnist.py',), 'shown'),
    'jin2022regmean': Paper(
        'Dataless Knowledge Fusion by Merging Weights of Language Models',
        2022, '2212.09849',
        ('merge.regmean', 'stats.gram', 'models.linear_inputs'),
        ('configs/jin2022regmean/mnist.py',), 'shown'),
    'jang2024modelstock': Paper(
        'Model Stock: All we need is just a few fine-tuned models',
        2024, '2403.19522',
        ('merge.model_stock',),
        (), 'checked',
        'agrees with mergekit; a negative cosine keeps the base'),
    'wan2024sce': Paper(
        'FuseChat: Knowledge Fusion of Chat Models',
        2024, '2408.07990',
        ('merge.sce',),
        (), 'checked',
        'the merging operator (SCE) only; agrees with mergekit'),
    'gargiulo2024tsv': Paper(
        'Task Singular Vectors: Reducing Task Interference in Model Merging',
        2024, '2412.00081',
        ('merge.task_singular_vectors',),
        (), 'checked',
        'TSV-Merge; agrees with polar factors computed by scipy'),
    'osial2025axis': Paper(
        'Efficient Multi-Source Knowledge Transfer by Model Merging',
        2025, '2508.19353',
        ('merge.multi_source_svd', 'procedures.singular_values',
         'procedures.singular_params'),
        ('configs/osial2025axis/mnist.py',), 'run',
        'stage 1 merges, stage 2 trains singular values'),
    'lu2024twin': Paper(
        'Twin-Merging: Dynamic Integration of Modular Expertise in Model '
        'Merging',
        2024, '2406.15479',
        ('merge.svd_truncate', 'procedures.twin_merging',
         'procedures.twin_params', 'procedures.twin_forward',
         'procedures.twin_dense', 'procedures.mlp_router'),
        ('configs/lu2024twin/mnist.py',), 'shown'),
    'ainsworth2022rebasin': Paper(
        'Git Re-Basin: Merging Models modulo Permutation Symmetries',
        2022, '2209.04836',
        ('align.weight_matching', 'align.activation_matching',
         'align.permute', 'models.permutation_spec'),
        ('configs/ainsworth2022rebasin/mnist.py',), 'shown'),
    'singh2019otfusion': Paper(
        'Model Fusion via Optimal Transport',
        2019, '1910.05653',
        ('align.optimal_transport', 'align.transport'),
        ('configs/singh2019otfusion/mnist.py',), 'shown'),
    'izmailov2018swa': Paper(
        'Averaging Weights Leads to Wider Optima and Better Generalization',
        2018, '1803.05407',
        ('models.reestimate_statistics',),
        (), 'checked',
        'BatchNorm moments only, pooled over all batches'),
    'yang2023adamerging': Paper(
        'AdaMerging: Adaptive Model Merging for Multi-Task Learning',
        2023, '2310.02575',
        ('procedures.learned_coefficients', 'procedures.merge_per_leaf',
         'procedures.entropy_objective', 'procedures.task_sum_objective'),
        ('configs/yang2023adamerging/mnist.py',), 'run',
        'transductive; AdaMerging++ is the same through `merge.ties`'),
    'zhang2024atlas': Paper(
        'Knowledge Composition using Task Vectors with Learned Anisotropic '
        'Scaling',
        2024, '2407.02880',
        ('procedures.learned_coefficients', 'procedures.merge_per_leaf',
         'procedures.random_parts', 'procedures.cross_entropy_objective',
         'procedures.negation_objective', 'procedures.task_sum_objective'),
        ('configs/zhang2024atlas/mnist.py',), 'shown',
        'pseudo-labels (UFM) are not implemented'),
    'akiba2024evolutionary': Paper(
        'Evolutionary Optimization of Model Merging Recipes',
        2024, '2403.13187',
        ('procedures.cma_es', 'procedures.parameter_space',
         'procedures.data_flow'),
        ('configs/akiba2024evolutionary/mnist.py',), 'shown',
        'CMA-ES is that of the package cmaes'),
    'zhang2024unconstrained': Paper(
        'Unconstrained Model Merging for Enhanced LLM Reasoning',
        2024, '2410.13699',
        ('procedures.cma_es', 'procedures.parameter_space'),
        ('configs/zhang2024unconstrained/mnist.py',), 'run',
        'models of one architecture only'),
    'bandarkar2024swap': Paper(
        'Layer Swapping for Zero-Shot Cross-Lingual Transfer in Large '
        'Language Models',
        2024, '2410.01335',
        ('procedures.layer_swap', 'procedures.swap_weights'),
        ('configs/bandarkar2024swap/mnist.py',), 'run',
        'a toy: the other language is rotated digits'),
    'khan2024portllm': Paper(
        'PortLLM: Personalizing Evolving Large Language Models with '
        'Training-Free and Portable Model Patches',
        2024, '2410.10870',
        ('procedures.task_patch', 'procedures.apply_patch'),
        ('configs/khan2024portllm/mnist.py',), 'shown'),
    'tang2026past': Paper(
        'Knowledge is Not Enough: Injecting RL Skills for Continual Adaptation',
        2026, '2601.11258',
        ('losses.expected_reward', 'procedures.task_patch',
         'procedures.apply_patch'),
        ('configs/tang2026past/mnist.py',), 'run',
        'expected reward instead of reinforcement learning'),
    'mitchell2023eft': Paper(
        'An Emulator for Fine-Tuning Large Language Models using Small '
        'Language Models',
        2023, '2310.12962',
        ('fuse.emulated_fine_tuning',),
        ('configs/mitchell2023eft/facts.py',), 'shown',
        'up- and down-scaling are one call; a test checks the optimum under a '
        'divergence from the base; the nucleus is our reading'),
    'liu2024proxy': Paper(
        'Tuning Language Models by Proxy',
        2024, '2401.08565',
        ('fuse.emulated_fine_tuning',),
        (), 'checked',
        'the same distribution as EFT: a test compares it with the sum of raw '
        'logits'),
    'fan2024dlf': Paper(
        "On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits "
        'Fusion',
        2024, '2406.15480',
        ('fuse.dynamic_logit_fusion',),
        ('configs/fan2024dlf/strings.py',), 'shown',
        "the paper's grid, and its exact minimum, checked against scipy"),
    'shing2025taid': Paper(
        'TAID: Temporally Adaptive Interpolated Distillation for Efficient '
        'Knowledge Transfer in Language Models',
        2025, '2501.16937',
        ('losses.taid', 'modules.TaidSchedule'),
        ('configs/shing2025taid/strings.py',), 'shown'),
    'song2024selfevolution': Paper(
        'Self-Evolution Knowledge Distillation for LLM-based Machine '
        'Translation',
        2024, '2412.15303',
        ('losses.self_evolution_kd',),
        ('configs/song2024selfevolution/cipher.py',), 'run',
        'what the paper leaves open is our reading'),
    'ding2025topkld': Paper(
        'Dissecting Bit-Level Scaling Laws in Quantizing Vision Generative '
        'Models',
        2025, '2501.06218',
        ('losses.top_kld',),
        ('configs/ding2025topkld/strings.py',), 'run',
        'the divergence is taken from reviews, with a correction of ours'),
    'jiang2024mixcpt': Paper(
        'Mix-CPT: A Domain Adaptation Framework via Decoupling Knowledge '
        'Learning and Format Alignment',
        2024, '2407.10804',
        ('losses.logit_swap',),
        ('configs/jiang2024mixcpt/strings.py',), 'shown'),
    'wu2024akl': Paper(
        'Rethinking Kullback-Leibler Divergence in Knowledge Distillation for '
        'Large Language Models',
        2024, '2404.02657',
        ('losses.adaptive_kl',),
        (), 'checked'),
    'boizard2024uld': Paper(
        'Towards Cross-Tokenizer Distillation: the Universal Logit '
        'Distillation Loss for LLMs',
        2024, '2402.12030',
        ('losses.uld',),
        ('configs/boizard2024uld/strings.py',), 'run'),
    'xu2024skd': Paper(
        'Speculative Knowledge Distillation: Bridging the Teacher-Student Gap '
        'Through Interleaved Sampling',
        2024, '2410.11325',
        ('losses.kd',),
        ('configs/xu2024skd/strings.py',), 'run',
        '`sampling.source` is speculative, token by token'),
    'kim2024promptkd': Paper(
        'PromptKD: Distilling Student-Friendly Knowledge for Generative '
        'Language Models via Prompt Tuning',
        2024, '2402.12842',
        ('losses.reverse_kl', 'modules.SoftPrompt'),
        ('configs/kim2024promptkd/strings.py',), 'formula',
        'prompt and student are updated in the same step'),
    'liu2024ddk': Paper(
        'DDK: Distilling Domain Knowledge for Efficient Large Language Models',
        2024, '2407.16154',
        ('losses.kd', 'procedures.domain_shares'),
        ('configs/liu2024ddk/strings.py',), 'shown',
        'the perplexity ratio is clipped at 4'),
    'yang2024llmneo': Paper(
        'LLM-Neo: Parameter Efficient Knowledge Distillation for Large '
        'Language Models',
        2024, '2411.06839',
        ('losses.kd',),
        ('configs/yang2024llmneo/strings.py',), 'run',
        'only parameters whose path matches `/lora_` are trained'),
    'su2021roformer': Paper(
        'RoFormer: Enhanced Transformer with Rotary Position Embedding',
        2021, '2104.09864', ('models.Decoder',), (), 'checked',
        'agrees with transformers'),
    'chen2023interpolation': Paper(
        'Extending Context Window of Large Language Models via Positional '
        'Interpolation',
        2023, '2306.15595', ('models.Decoder',), (), 'checked',
        '`rope_scaling` linear; agrees with transformers'),
    'peng2023yarn': Paper(
        'YaRN: Efficient Context Window Extension of Large Language Models',
        2023, '2309.00071', ('models.Decoder',), (), 'checked',
        '`rope_scaling` yarn; agrees with transformers'),
    'grattafiori2024llama3': Paper(
        'The Llama 3 Herd of Models',
        2024, '2407.21783', ('models.Decoder',), (), 'checked',
        '`rope_scaling` llama3; agrees with transformers'),
    'lester2021prompt': Paper(
        'The Power of Scale for Parameter-Efficient Prompt Tuning',
        2021, '2104.08691', ('modules.SoftPrompt',), (), 'formula',
        'a soft prompt before a frozen decoder'),
}
